// Reductions in a fixed order: a result depends on its own elements alone, and on nothing that varies between runs.
import type { DType } from "../../dtype.ts";
import type { Program } from "../../expr/program.ts";
import type { ReduceKind, View } from "../device.ts";
import type { GpuContext, KernelSource, Word } from "./context.ts";
import { accessOf, bindAll, coordinates, numberSlots, numberWords, place } from "./elementwise.ts";
import { isWhole, Translation } from "./expression.ts";
import { reductionOf } from "./reduction.ts";
import { eachGroup, eachItem, ITEMS, libraryFor, load, parameters, slot, storages, store } from "./shader.ts";
import { joinTeam, teamMemory, teamResult, wholeTeam } from "./team.ts";

/** Invocations that share one result. */
const TEAM = 128;
/** Elements added to a partial sum before that joins the sum: rounding grows with the number of parts, not of elements. */
const PART = 32;

const JOIN: {
  readonly [K in ReduceKind]: { f32: (a: string, b: string) => string; i32: (a: string, b: string) => string };
} = {
  sum: { f32: (a, b) => `${a} + ${b}`, i32: (a, b) => `${a} + ${b}` },
  max: { f32: (a, b) => `max_of(${a}, ${b})`, i32: (a, b) => `max(${a}, ${b})` },
  min: { f32: (a, b) => `min_of(${a}, ${b})`, i32: (a, b) => `min(${a}, ${b})` },
};

const START: { readonly [K in ReduceKind]: { f32: string; i32: string } } = {
  sum: { f32: "0.0f", i32: "0i" },
  max: { f32: "-inf()", i32: "i32(-2147483647 - 1)" },
  min: { f32: "inf()", i32: "2147483647i" },
};

interface Form {
  readonly kind: ReduceKind;
  readonly program: Program;
  readonly kept: number;
  readonly joined: number;
  readonly team: boolean;
  readonly add: boolean;
  readonly inputs: readonly { readonly dtype: DType; readonly at: number }[];
  readonly out: { readonly dtype: DType; readonly at: number };
  readonly letters: string;
  readonly whole: readonly boolean[];
}

/** Slots: results, elements of each, free, 0; kept sizes; joined sizes; out's first and kept strides; each input's first, kept and joined strides. */
function source(form: Form, subgroup: number): KernelSource {
  const { kind, kept, joined, inputs, out, letters } = form;
  const keptAt = 4;
  const joinedAt = keptAt + kept;
  const outAt = joinedAt + joined;
  const inputAt = (v: number): number => outAt + 1 + kept + v * (1 + kept + joined);
  const numbers = inputAt(inputs.length);
  const atomic = (at: number): boolean => letters[at] === "a";

  const inner = coordinates("r", joined, joinedAt, "d");
  for (const v of inputs.keys()) {
    const terms = Array.from({ length: joined }, (_, d) => `d${d} * ${slot(inputAt(v) + 1 + kept + d)}`);
    inner.push(`let e${v} = ${[`base${v}`, ...terms].join(" + ")};`);
  }
  const translation = new Translation({
    inputs: inputs.map(({ dtype, at }, v) => ({ text: load(`b${at + 1}`, dtype, `e${v}`, atomic(at)), dtype })),
    params: numberSlots(form.whole, numbers),
  });
  const whole = out.dtype === "i32";
  const result = translation.value(form.program.root, whole ? "i32" : undefined);
  const type = result.kind;
  const both = JOIN[kind][type];
  const start = START[kind][type];
  inner.push(...translation.statements);

  const lines = coordinates("i", kept, keptAt);
  for (const v of inputs.keys()) lines.push(`let base${v} = ${place(kept, inputAt(v))};`);
  lines.push(`let o = ${place(kept, outAt)};`, `var total = ${start};`);
  const loop = (first: string, step: string): string[] => [
    `for (var begin = ${first}; begin < ${slot(1)}; begin += ${step} * ${PART}u) {`,
    `  var part = ${start};`,
    `  let end = min(${slot(1)}, begin + ${step} * ${PART}u);`,
    `  for (var r = begin; r < end; r += ${step}) {`,
    ...inner.map((line) => `    ${line}`),
    `    part = ${both("part", result.text)};`,
    "  }",
    `  total = ${both("total", "part")};`,
    "}",
  ];
  const finish = (): string[] => {
    const old = load(`b${out.at + 1}`, out.dtype, "o", atomic(out.at));
    const joinedValue = type === "i32" && out.dtype !== "i32" ? "f32(total)" : "total";
    const final = whole ? JOIN[kind].i32 : JOIN[kind].f32;
    const value = form.add ? final(old, joinedValue) : joinedValue;
    return [`let value = ${value};`, store(`b${out.at + 1}`, out.dtype, "o", "value")];
  };
  let body: string;
  if (form.team) {
    const team = wholeTeam(TEAM, subgroup, "total", type, both);
    lines.push(...loop("l", `${TEAM}u`), joinTeam(team));
    lines.push(`if (l == 0u) {`, `  total = ${teamResult(team)};`, ...finish(), "}");
    body = `${teamMemory(team)}\n${eachGroup(slot(0), TEAM, lines.join("\n"))}`;
  } else {
    lines.push(...loop("0u", "1u"), ...finish());
    body = eachItem(slot(0), lines.join("\n"));
  }
  const head = parameters(numbers + 2 * form.whole.length) + storages(letters);
  return { code: `${head}\n${libraryFor(body)}\n${body}`, access: accessOf(letters) };
}

/** The definition is `Device.reduce`'s. */
export function reduce(
  gpu: GpuContext,
  kind: ReduceKind,
  program: Program,
  params: readonly number[],
  inputs: readonly View[],
  out: View,
  accumulate = false,
): void {
  const { single, kept, joined, results, elements } = reductionOf(inputs, out);
  if (results === 0) return;
  const { bindings, letters, places } = bindAll(gpu, "reduce", inputs, [single]);
  const alongRows = joined.steps.some((steps) => Math.abs(steps.at(-1)!) === 1);
  const form: Form = {
    kind,
    program,
    kept: kept.sizes.length,
    joined: joined.sizes.length,
    team: elements >= TEAM / 2 && (alongRows || results < 2048),
    add: accumulate,
    inputs: inputs.map(({ dtype }, v) => ({ dtype, at: places[v].at })),
    out: { dtype: out.dtype, at: places[inputs.length].at },
    letters,
    whole: params.map(isWhole),
  };
  const ins = form.inputs.map(({ dtype, at }) => `${dtype}${at}`);
  const shapeKey = `${form.kept} ${form.joined} ${form.team ? "team" : "each"}${accumulate ? "+" : ""}`;
  const key = `${kind} ${program.root.id} ${shapeKey} ${letters} ${ins} ${out.dtype} ${form.whole.map(Number).join("")}`;
  const words: Word[] = [results, elements, 0, 0, ...kept.sizes, ...joined.sizes];
  words.push(places[inputs.length].first, ...kept.steps[0]);
  for (const v of inputs.keys()) words.push(places[v].first, ...kept.steps[v + 1], ...joined.steps[v]);
  words.push(...numberWords(params));
  const groups = form.team ? results : Math.ceil(results / ITEMS);
  gpu.run(
    gpu.kernel(key, () => source(form, gpu.subgroup)),
    words,
    bindings,
    gpu.spread(groups),
  );
}
