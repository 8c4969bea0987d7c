// RMS normalisation and its gradients.
import { sizeOf } from "../../shape.ts";
import type { View } from "../device.ts";
import type { GpuContext, Word } from "./context.ts";
import { coordinates, place } from "./elementwise.ts";
import { eachGroup, eachItem, ITEMS, libraryFor, parameters, slot, storages } from "./shader.ts";
import { joinTeam, type Team, teamMemory, teamResult, wholeTeam } from "./team.ts";

const TEAM = 64;

/** The team's sum of `sum`. */
const sumOf = ({ subgroup }: GpuContext): Team => wholeTeam(TEAM, subgroup, "sum");

const float = (b: string, at: string): string => `bitcast<f32>(${b}[${at}])`;

/** Parameters of views [..., n]: rows, n, eps, 0; the outer sizes; then each view's first, outer strides and step. */
function layout(outer: readonly number[], n: number, eps: number, views: readonly { view: View; first: number }[]) {
  const words: Word[] = [sizeOf(outer), n, { f32: eps }, 0, ...outer];
  for (const { view, first } of views) words.push(first, ...view.strides);
  return words;
}

/** Where a view's parameters begin: `rank` outer dimensions, and a step for those views that have n columns. */
const placesOf = (rank: number, steps: readonly boolean[]): number[] => {
  const found: number[] = [];
  let at = 4 + rank;
  for (const hasStep of steps) {
    found.push(at);
    at += 1 + rank + (hasStep ? 1 : 0);
  }
  return [...found, at];
};

/** The definition is `Device.rmsNorm`'s. */
export function rmsNorm(gpu: GpuContext, x: View, weight: View, eps: number, out: View, rstd: View): void {
  const outer = x.shape.slice(0, -1);
  const n = x.shape.at(-1)!;
  const rows = sizeOf(outer);
  if (rows === 0) return;
  const rank = outer.length;
  const [from, scale, to, sizes] = [x, weight, out, rstd].map((view) => gpu.bind(view, "rmsNorm"));
  const kernel = gpu.kernel(`rmsNorm ${rank}`, () => {
    const [xAt, outAt, rstdAt, weightAt] = placesOf(rank, [true, true, false]);
    const at = (base: string, first: number, k: string): string => `${base} + ${k} * ${slot(first + 1 + rank)}`;
    const team = sumOf(gpu);
    const body = `${teamMemory(team)}
${eachGroup(
  slot(0),
  TEAM,
  `${coordinates("i", rank, 4).join("\n")}
  let base = ${place(rank, xAt)};
  let goal = ${place(rank, outAt)};
  var sum = 0.0;
  for (var k = l; k < ${slot(1)}; k += ${TEAM}u) {
    let value = ${float("b1", at("base", xAt, "k"))};
    sum = fma(value, value, sum);
  }
  ${joinTeam(team)}
  let size = 1.0 / sqrt_of(${teamResult(team)} / f32(${slot(1)}) + bitcast<f32>(${slot(2)}));
  if (l == 0u) { b4[${place(rank, rstdAt)}] = bitcast<u32>(size); }
  for (var k = l; k < ${slot(1)}; k += ${TEAM}u) {
    let value = ${float("b1", at("base", xAt, "k"))} * size * ${float("b2", `${slot(weightAt)} + k * ${slot(weightAt + 1)}`)};
    b3[${at("goal", outAt, "k")}] = bitcast<u32>(value);
  }`,
)}`;
    return { code: `${parameters(weightAt + 2)}${storages("rrww")}\n${libraryFor(body)}\n${body}`, access: "rrww" };
  });
  const views = [
    { view: x, first: from.first },
    { view: out, first: to.first },
    { view: rstd, first: sizes.first },
    { view: weight, first: scale.first },
  ];
  const bindings = [from.binding, scale.binding, to.binding, sizes.binding];
  gpu.run(kernel, layout(outer, n, eps, views), bindings, gpu.spread(rows));
}

/** The definition is `Device.rmsNormBackward`'s. */
export function rmsNormBackward(
  gpu: GpuContext,
  grad: View,
  x: View,
  weight: View,
  rstd: View,
  gradX: View | undefined,
  gradWeight: View | undefined,
  accumulate = false,
): void {
  const outer = x.shape.slice(0, -1);
  const n = x.shape.at(-1)!;
  const rows = sizeOf(outer);
  const rank = outer.length;
  const [toOut, from, scale, sizes] = [grad, x, weight, rstd].map((view) => gpu.bind(view, "rmsNormBackward"));
  const views = [
    { view: grad, first: toOut.first },
    { view: x, first: from.first },
    { view: rstd, first: sizes.first },
  ];
  const weightView = { view: weight, first: scale.first };
  const inputs = [toOut.binding, from.binding, sizes.binding];
  const [gradAt, xAt, rstdAt, nextAt] = placesOf(rank, [true, true, false]);
  const at = (first: number, k: string): string => `${place(rank, first)} + ${k} * ${slot(first + 1 + rank)}`;
  const coords = coordinates("i", rank, 4).join("\n");
  if (gradX && rows > 0) {
    const to = gpu.bind(gradX, "rmsNormBackward");
    const kernel = gpu.kernel(`rmsNormBackward ${rank} ${accumulate ? "+" : ""}`, () => {
      const weightAt = nextAt + 2 + rank;
      const weighted = `${float("b1", at(gradAt, "k"))} * ${float("b4", `${slot(weightAt)} + k * ${slot(weightAt + 1)}`)}`;
      const team = sumOf(gpu);
      const body = `${teamMemory(team)}
${eachGroup(
  slot(0),
  TEAM,
  `${coords}
  let size = ${float("b3", place(rank, rstdAt))};
  var sum = 0.0;
  for (var k = l; k < ${slot(1)}; k += ${TEAM}u) {
    sum = fma(${weighted}, ${float("b2", at(xAt, "k"))} * size, sum);
  }
  ${joinTeam(team)}
  let mean = ${teamResult(team)} / f32(${slot(1)});
  for (var k = l; k < ${slot(1)}; k += ${TEAM}u) {
    let e = ${at(nextAt, "k")};
    let value = size * (${weighted} - ${float("b2", at(xAt, "k"))} * size * mean)${accumulate ? ` + ${float("b5", "e")}` : ""};
    b5[e] = bitcast<u32>(value);
  }`,
)}`;
      return { code: `${parameters(weightAt + 2)}${storages("rrrrw")}\n${libraryFor(body)}\n${body}`, access: "rrrrw" };
    });
    const words = layout(outer, n, 0, [...views, { view: gradX, first: to.first }, weightView]);
    gpu.run(kernel, words, [...inputs, scale.binding, to.binding], gpu.spread(rows));
  }
  if (gradWeight) {
    const to = gpu.bind(gradWeight, "rmsNormBackward");
    const kernel = gpu.kernel(`rmsNormBackward weight ${rank}`, () => {
      const body = eachItem(
        slot(1),
        `  var total = 0.0;
  let column = i;
  for (var begin = 0u; begin < ${slot(0)}; begin += 32u) {
    var part = 0.0;
    for (var row = begin; row < min(begin + 32u, ${slot(0)}); row++) {
      ${coordinates("row", rank, 4).join("\n")}
      part = fma(${float("b1", at(gradAt, "column"))}, ${float("b2", at(xAt, "column"))} * ${float("b3", place(rank, rstdAt))}, part);
    }
    total += part;
  }
  b4[${slot(nextAt)} + column * ${slot(nextAt + 1)}] = bitcast<u32>(total);`,
      );
      return { code: `${parameters(nextAt + 2)}${storages("rrrw")}\n${libraryFor(body)}\n${body}`, access: "rrrw" };
    });
    const words = layout(outer, n, 0, [...views, { view: gradWeight, first: to.first }]);
    gpu.run(kernel, words, [...inputs, to.binding], [Math.ceil(n / ITEMS)]);
  }
}
