import { ADD, joinTeam, type Team, teamArray, teamMemory, teamResult } from "../team.ts";
import { repeat } from "./source.ts";
import { type Product, productHead } from "./tiled.ts";

/**
 * How a product of few rows is cut: each matrix element is read once, by invocations that are neighbours in memory. Of b's
 * columns that run along k, `lanes` invocations share one, four elements at a time, and each has `columns` of them at once; b's
 * rows are shared by `lanes` invocations of four columns each, and the others of the workgroup take every so many-th row.
 */
export interface Strip {
  readonly invocations: number;
  readonly lanes: number;
  readonly columns: number;
}

export const stripName = (s: Strip): string => `${s.invocations}-${s.lanes}-${s.columns}`;

/** Columns of the result that a workgroup makes. */
export const stripColumns = ({ alongB }: Product, s: Strip): number =>
  alongB === "k" ? (s.invocations / s.lanes) * s.columns : 4 * s.lanes;

/** Bytes of workgroup memory. */
export const stripBytes = ({ alongB }: Pick<Product, "alongB">, s: Strip, rows: number): number =>
  4 * s.invocations * rows * (alongB === "k" ? s.columns : 4);

const HEAD = `fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  begin(p.first + group.z);`;

/** `dot` whose sum has a stated order. */
const DOT =
  "fn dot_of(x: vec4f, y: vec4f, sum: f32) -> f32 { return fma(x.w, y.w, fma(x.z, y.z, fma(x.y, y.y, fma(x.x, y.x, sum)))); }";

/** Statements that write the joined sums, shared among a team's members; `each` writes sum `i`. */
function putSums(team: Team, each: (sum: string) => string): string {
  // In a loop: drivers take long over many copies of what a write checks.
  return `${teamArray(team)}
  for (var i = ${team.index}; i < ${team.names.length}u; i += ${team.width}u) {
    let sum = ${teamResult(team, "i")};
    ${each("sum")}
  }`;
}

const sumName = (m: number, c: number): string => `sum${m}_${c}`;

function alongK(product: Product, s: Strip, rows: number, subgroup: number): string {
  const columns = stripColumns(product, s);
  const names = Array.from({ length: rows * s.columns }, (_, i) => sumName(Math.floor(i / s.columns), i % s.columns));
  const team: Team = {
    ...{ names, type: "f32", join: ADD, invocations: s.invocations, width: s.lanes, stride: 1, subgroup },
    ...{ index: "share", team: `(lane / ${s.lanes}u)` },
  };
  return `${productHead(product)}
${DOT}
${teamMemory(team)}
@compute @workgroup_size(${s.invocations})
${HEAD}
  let share = lane % ${s.lanes}u;
  let n0 = group.x * ${columns}u + (lane / ${s.lanes}u) * ${s.columns}u;
  ${repeat(rows, (m) => repeat(s.columns, (c) => `var ${sumName(m, c)} = 0.0;`))}
  for (var k = 4u * share; k < p.k; k += ${4 * s.lanes}u) {
    ${repeat(s.columns, (c) => `let b${c} = right(k, n0 + ${c}u);`)}
    ${repeat(rows, (m) => `let a${m} = left(${m}u, k);\n${repeat(s.columns, (c) => `${sumName(m, c)} = dot_of(a${m}, b${c}, ${sumName(m, c)});`)}`)}
  }
  ${joinTeam(team)}
  ${putSums(team, (sum) => `put(i / ${s.columns}u, n0 + i % ${s.columns}u, ${sum});`)}
}`;
}

function alongN(product: Product, s: Strip, rows: number, subgroup: number): string {
  const deep = s.invocations / s.lanes;
  const names = Array.from({ length: rows }, (_, m) => `sum${m}`);
  const team: Team = {
    ...{ names, type: "vec4f", join: ADD, invocations: s.invocations, width: deep, stride: s.lanes, subgroup },
    ...{ index: "row", team: `(lane % ${s.lanes}u)` },
  };
  return `${productHead(product)}
${teamMemory(team)}
@compute @workgroup_size(${s.invocations})
${HEAD}
  let row = lane / ${s.lanes}u;
  let n = group.x * ${4 * s.lanes}u + 4u * (lane % ${s.lanes}u);
  ${repeat(rows, (m) => `var sum${m} = vec4f(0);`)}
  for (var k = row; k < p.k; k += ${deep}u) {
    let b = right_row(k, n);
    ${repeat(rows, (m) => `sum${m} = fma(vec4f(one_a(at_a + ${m}u * p.a_m + k * p.a_k)), b, sum${m});`)}
  }
  ${joinTeam(team)}
  ${putSums(team, (sum) => `for (var c = 0u; c < 4u; c++) { put(i, n + c, ${sum}[c]); }`)}
}`;
}

/** The shader of a product of `rows` rows, at most eight; a row's sums are made in one order, whatever their number. */
export function stripSource(product: Product, strip: Strip, rows: number, subgroup: number): string {
  return (product.alongB === "k" ? alongK : alongN)(product, strip, rows, subgroup);
}
