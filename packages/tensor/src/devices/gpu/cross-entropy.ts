// The loss over a vocabulary whose logits are never whole: blocks of it, the maximum and the sum carried along, what was
// summed before rescaled when the maximum grows (as in FlashAttention, Dao et al. 2022).
import { constant, input, select } from "../../expr/expr.ts";
import { sizeOf } from "../../shape.ts";
import type { LinearCrossEntropyArgs, View } from "../device.ts";
import type { GpuContext, Word } from "./context.ts";
import { map } from "./elementwise.ts";
import { gatherRows } from "./rows.ts";
import { eachGroup, eachItem, ITEMS, libraryFor, parameters, slot, storages } from "./shader.ts";
import { joinTeam, teamMemory, teamResult, wholeTeam } from "./team.ts";
import { matmul, type Tiling } from "./wgsl/matmul.ts";
import { temporary } from "./wgsl/views.ts";

/** Logits that exist at a time, of all rows: 16 MiB. */
const LOGITS = 2 ** 22;
const LARGEST_BLOCK = 8192;
const TEAM = 128;

const float = (at: string): string => `bitcast<f32>(${at})`;

/**
 * One block of logits (b1): maximum, sum of exponentials, target's logit and last factor of each row (b2 [rows, 4])
 * brought up to date; the logits become exponentials where those are wanted.
 * Slots: rows, columns, the block's first class, 0; is it the first block; are the exponentials wanted; targets' first, stride.
 */
function blockKernel(gpu: GpuContext) {
  return gpu.kernel("crossEntropy block", () => {
    const most = wholeTeam(TEAM, gpu.subgroup, "largest", "f32", (a, b) => `max_of(${a}, ${b})`);
    const sum = wholeTeam(TEAM, gpu.subgroup, "sum");
    const body = `${teamMemory(sum)}
${eachGroup(
  slot(0),
  TEAM,
  `  let row = i * ${slot(1)};
  var largest = -inf();
  for (var k = l; k < ${slot(1)}; k += ${TEAM}u) { largest = max_of(largest, ${float("b1[row + k]")}); }
  var before = -inf();
  var old = 0.0;
  if (${slot(4)} == 0u) {
    before = ${float("b2[4u * i]")};
    old = ${float("b2[4u * i + 1u]")};
  }
  ${joinTeam(most)}
  let now = max_of(before, ${teamResult(most)});
  var sum = 0.0;
  let target_class = b3[${slot(6)} + i * ${slot(7)}] - ${slot(2)};
  if (l == 0u && target_class < ${slot(1)}) { b2[4u * i + 2u] = b1[row + target_class]; }
  workgroupBarrier();
  for (var k = l; k < ${slot(1)}; k += ${TEAM}u) {
    let e = exp_of(${float("b1[row + k]")} - now);
    sum += e;
    if (${slot(5)} == 1u) { b1[row + k] = bitcast<u32>(e); }
  }
  ${joinTeam(sum)}
  if (l == 0u) {
    let factor = select(exp_of(before - now), 0.0, ${slot(4)} == 1u);
    b2[4u * i] = bitcast<u32>(now);
    b2[4u * i + 1u] = bitcast<u32>(fma(old, factor, ${teamResult(sum)}));
    b2[4u * i + 3u] = bitcast<u32>(factor);
  }`,
)}`;
    return { code: `${parameters(8)}${storages("wwr")}\n${libraryFor(body)}\n${body}`, access: "wwr" };
  });
}

/** Loss and whether the target was the greatest. Slots: rows, free, free, 0; loss's first, stride; correct's; targets'. */
function lossKernel(gpu: GpuContext, correct: boolean) {
  return gpu.kernel(`crossEntropy loss ${correct ? "and correct" : ""}`, () => {
    const body = eachItem(
      slot(0),
      `  let has = bitcast<i32>(b2[${slot(8)} + i * ${slot(9)}]) >= 0;
  let loss = ${float("b1[4u * i]")} + log_of(${float("b1[4u * i + 1u]")}) - ${float("b1[4u * i + 2u]")};
  b3[${slot(4)} + i * ${slot(5)}] = bitcast<u32>(select(0.0, loss, has));
  ${correct ? `b4[${slot(6)} + i * ${slot(7)}] = bitcast<u32>(select(0.0, 1.0, has && eq_of(${float("b1[4u * i]")}, ${float("b1[4u * i + 2u]")}) == 1));` : ""}`,
    );
    const access = correct ? "rrww" : "rrw";
    return { code: `${parameters(10)}${storages(access)}\n${libraryFor(body)}\n${body}`, access };
  });
}

/** Logits (b1) to scale·(softmax − target). Slots: elements, columns, first class, 0; targets' first, stride; scale's. */
function gradientKernel(gpu: GpuContext) {
  return gpu.kernel("crossEntropy gradient", () => {
    const body = eachItem(
      slot(0),
      `  let r = i / ${slot(1)};
  let target_class = b3[${slot(4)} + r * ${slot(5)}];
  let probability = exp_of(${float("b1[i]")} - ${float("b2[4u * r]")}) / ${float("b2[4u * r + 1u]")};
  let hit = select(0.0, 1.0, i % ${slot(1)} + ${slot(2)} == target_class);
  let value = ${float(`b4[${slot(6)} + r * ${slot(7)}]`)} * (probability - hit);
  b1[i] = bitcast<u32>(select(0.0, value, bitcast<i32>(target_class) >= 0));`,
    );
    return { code: `${parameters(8)}${storages("wrrr")}\n${libraryFor(body)}\n${body}`, access: "wrrr" };
  });
}

const turned = (view: View): View => ({
  ...view,
  shape: view.shape.toReversed(),
  strides: view.strides.toReversed(),
});

/** What was summed before the maximum grew. */
const RESCALED = input(0).mul(input(1));
/** scale·(sum/total − weight of the target), 0 without a target. */
const [sum, total, chosen, factor, target] = [0, 1, 2, 3, 4].map(input);
const FINISHED = select(target.lt(0), 0, factor.mul(sum.div(total).sub(chosen)));
const NOTHING = constant(0);

/** The definition is `Device.linearCrossEntropy`'s. */
export function linearCrossEntropy(gpu: GpuContext, tiling: Tiling, args: LinearCrossEntropyArgs): void {
  const { hidden, weight, targets, scale, loss, gradHidden, gradWeight, correct } = args;
  const [rows, n] = hidden.shape;
  const [vocabulary] = weight.shape;
  if (rows === 0) {
    if (gradWeight) map(gpu, "crossEntropy", [], [], [{ root: NOTHING, view: gradWeight }]);
    return;
  }
  const width = Math.min(vocabulary, LARGEST_BLOCK, Math.max(256, Math.floor(LOGITS / rows / 256) * 256));
  const logits = temporary(gpu, [rows, width]);
  const state = temporary(gpu, [rows, 4]);
  const sums = gradHidden && temporary(gpu, [rows, n]);
  const column = (c: number): View => ({ ...state.view, offset: c, shape: [rows, n], strides: [4, 0] });
  const rowWise = (view: View): View => ({ ...view, shape: [rows, n], strides: [view.strides[0], 0] });
  const [targetAt, all] = [gpu.bind(targets, "crossEntropy"), gpu.bind(state.view, "crossEntropy")];
  const eachBlock = (visit: (first: number, block: View, part: View) => void): void => {
    for (let first = 0; first < vocabulary; first += width) {
      const count = Math.min(width, vocabulary - first);
      const block = { ...weight, offset: weight.offset + first * weight.strides[0], shape: [count, n] };
      const part = { ...logits.view, shape: [rows, count], strides: [count, 1] };
      // By one means for any number of rows: a row's loss is the same in any company.
      matmul(gpu, tiling, hidden, turned(block), part, { rows: "many" });
      visit(first, block, part);
    }
  };
  eachBlock((first, block, part) => {
    const words = [
      rows,
      part.shape[1],
      first,
      0,
      first === 0 ? 1 : 0,
      sums ? 1 : 0,
      targetAt.first,
      targets.strides[0],
    ];
    const { binding } = gpu.bind(part, "crossEntropy");
    gpu.run(blockKernel(gpu), words, [binding, all.binding, targetAt.binding], gpu.spread(rows));
    if (!sums) return;
    if (first > 0) map(gpu, "crossEntropy", [], [sums.view, column(3)], [{ root: RESCALED, view: sums.view }]);
    matmul(gpu, tiling, part, block, sums.view, { accumulate: first > 0, rows: "many" });
  });
  const lossAt = gpu.bind(loss, "crossEntropy");
  const correctAt = correct && gpu.bind(correct, "crossEntropy");
  const words = [
    ...[rows, 0, 0, 0],
    ...[lossAt.first, loss.strides[0]],
    ...[correctAt?.first ?? 0, correct?.strides[0] ?? 0],
    ...[targetAt.first, targets.strides[0]],
  ];
  const bindings = [all.binding, targetAt.binding, lossAt.binding, ...(correctAt ? [correctAt.binding] : [])];
  gpu.run(lossKernel(gpu, correct !== undefined), words, bindings, gpu.spread(Math.ceil(rows / ITEMS)));
  if (gradHidden && sums) {
    const chosen = temporary(gpu, [rows, n]);
    gatherRows(gpu, weight, targets, chosen.view);
    const inputs = [sums.view, column(1), chosen.view, rowWise(scale), rowWise(targets)];
    map(gpu, "crossEntropy", [], inputs, [{ root: FINISHED, view: gradHidden }]);
    chosen.free();
  }
  if (gradWeight) {
    const scaleAt = gpu.bind(scale, "crossEntropy");
    eachBlock((first, _block, part) => {
      const elements = sizeOf(part.shape);
      const { binding } = gpu.bind(part, "crossEntropy");
      const numbers: Word[] = [
        elements,
        part.shape[1],
        first,
        0,
        targetAt.first,
        targets.strides[0],
        scaleAt.first,
        scale.strides[0],
      ];
      const bound = [binding, all.binding, targetAt.binding, scaleAt.binding];
      gpu.run(gradientKernel(gpu), numbers, bound, gpu.spread(Math.ceil(elements / ITEMS)));
      const offset = gradWeight.offset + first * gradWeight.strides[0];
      const into = { ...gradWeight, offset, shape: [part.shape[1], n] };
      matmul(gpu, tiling, turned(part), hidden, into, { rows: "many" });
    });
  }
  for (const memory of [logits, state, ...(sums ? [sums] : [])]) memory.free();
}
