// Joining what invocations of a workgroup have, by neighbours: pairs, pairs of pairs and so on. Where the adapter has subgroups
// the first steps exchange values directly, without workgroup memory and barriers. The order is the same either way, and so
// are the bits.

/** Joins two values, in WGSL; the order of the two must not matter. */
export type Join = (a: string, b: string) => string;

export const ADD: Join = (a, b) => `${a} + ${b}`;

/** Who joins what in a workgroup of `invocations`. All sizes are powers of two. */
export interface Team {
  /** Variables of every invocation that are joined, each by itself. */
  readonly names: readonly string[];
  readonly type: string;
  readonly join: Join;
  readonly invocations: number;
  /** So many invocations share a join; they are `stride` apart. */
  readonly width: number;
  readonly stride: number;
  /** An invocation's number among those that share a join, and the number of its team, in WGSL. */
  readonly index: string;
  readonly team: string;
  /** So many neighbours exchange values directly: `GpuContext.subgroup`. */
  readonly subgroup: number;
}

/** Members that exchange directly. */
const near = ({ width, stride, subgroup }: Team): number => Math.max(1, Math.min(width, subgroup / stride));

/** Values that every member reads and joins by itself; more of them are joined in the memory, with a barrier a step. */
const FEW = 16;

/** Members, or groups of neighbours, that bring their values into workgroup memory. */
const placesOf = (team: Team): number => team.width / near(team);

/** Declaration of the workgroup memory that {@link joinTeam} needs, if any. */
export function teamMemory(team: Team): string {
  if (near(team) === team.width) return "";
  return `var<workgroup> team: array<${team.type}, ${(team.names.length * team.invocations) / near(team)}>;`;
}

/** Where value `i` of member `index` lies; those that are joined lie side by side. Of neighbours the first has a place. */
function placeOf(team: Team, i: string, index: string): string {
  const places = placesOf(team);
  return `team[${i} * ${team.invocations / near(team)}u + ${team.team} * ${places}u + ${index}]`;
}

/** Statements that join; then {@link teamResult} says the results. Before a second join there must be a barrier. */
export function joinTeam(team: Team): string {
  const { names, width, stride, index } = team;
  const direct = near(team);
  const lines: string[] = [];
  for (let step = 1; step < direct; step *= 2) {
    for (const name of names) {
      const other = `let other = subgroupShuffleXor(${name}, ${step * stride}u);`;
      lines.push(`{ ${other} ${name} = ${team.join(name, "other")}; }`);
    }
  }
  if (direct === width) return lines.join("\n  ");
  const places = placesOf(team);
  const stores = names.map((name, i) => `${placeOf(team, `${i}u`, `${index} / ${direct}u`)} = ${name};`);
  lines.push(direct > 1 ? `if (${index} % ${direct}u == 0u) { ${stores.join(" ")} }` : stores.join(" "));
  if (places > FEW) {
    // By places, not by names: drivers would write such a loop out, and compile for long.
    const kind = `${team.invocations / direct}u`;
    lines.push(`for (var step = 1u; step < ${places}u; step <<= 1u) {
    workgroupBarrier();
    if (${index} < ${places}u / (2u * step)) {
      for (var at = ${team.team} * ${places}u + 2u * step * ${index}; at < ${names.length}u * ${kind}; at += ${kind}) {
        team[at] = ${team.join("team[at]", "team[at + step]")};
      }
    }
  }`);
  }
  lines.push("workgroupBarrier();");
  return lines.join("\n  ");
}

/**
 * The result of name number `i` after {@link joinTeam}, as all members of a team may read it.
 *
 * @param i in WGSL; where there are several names and no memory, they must have been put into an array: {@link teamArray}
 */
export function teamResult(team: Team, i = "0u"): string {
  const direct = near(team);
  if (direct === team.width) return team.names.length === 1 ? team.names[0] : `results[${i}]`;
  const of = (from: number, count: number): string =>
    count === 1 ? placeOf(team, i, `${from}u`) : `(${team.join(of(from, count / 2), of(from + count / 2, count / 2))})`;
  return of(0, placesOf(team) > FEW ? 1 : placesOf(team));
}

/** Statements before {@link teamResult} is asked for a name that is known at run time. */
export function teamArray(team: Team): string {
  if (near(team) < team.width || team.names.length === 1) return "";
  return `let results = array<${team.type}, ${team.names.length}>(${team.names.join(", ")});`;
}

/** All of a workgroup of `size` join the variable `name`; `l` is an invocation's number. */
export function wholeTeam(size: number, subgroup: number, name: string, type = "f32", by = ADD): Team {
  return {
    ...{ names: [name], type, join: by, invocations: size, width: size, stride: 1 },
    ...{ index: "l", team: "0u", subgroup },
  };
}
