// Loss over a vocabulary in blocks: a block's logits are made, turned into exponentials and, for the gradient, multiplied
// with the block's weights at once. Nothing of size rows × vocabulary exists.
//
// The gradient to a hidden state is Σ softmax(v)·W[v] − W[target]. The sum is carried relative to the row's maximum so
// far and rescaled when that grows, as in flash attention; it is divided by the sum of exponentials at the end.
import { BYTES } from "../../dtype.ts";
import { DeviceError } from "../../errors.ts";
import type { LinearCrossEntropyArgs, View } from "../device.ts";
import { readRow } from "../reference/views.ts";
import type { CpuContext } from "./context.ts";
import { softmaxBlockKernel, softmaxGradKernel } from "./kernels/cross-entropy.ts";
import { isWeight, matmulAt, type Weight } from "./matmul.ts";

/** Classes whose logits exist at a time, for at most GROUP_ROWS rows. */
const BLOCK_CLASSES = 2048;
const GROUP_ROWS = 1024;

/** Runs the loss; false where no kernel takes these types and strides. */
export function linearCrossEntropy(cpu: CpuContext, args: LinearCrossEntropyArgs): boolean {
  const { hidden, weight, targets, scale, loss, gradHidden, gradWeight, correct } = args;
  const f32 = [hidden, scale, loss, gradHidden, gradWeight, correct].every(
    (view) => view === undefined || view.dtype === "f32",
  );
  if (!f32 || !isWeight(weight.dtype) || targets.dtype !== "i32") return false;
  const dense = [hidden, weight, gradHidden, gradWeight].every((view) => view === undefined || view.strides[1] === 1);
  if (!dense || hidden.shape[1] === 0) return false;
  for (const view of [hidden, weight, targets, scale, loss, gradHidden, gradWeight, correct]) {
    if (view) cpu.check(view, "linearCrossEntropy");
  }
  const [vocabulary] = weight.shape as [number, number];
  const given = element(cpu, targets);
  const lossAt = writer(cpu, loss);
  const correctAt = correct ? writer(cpu, correct) : undefined;
  const active: number[] = [];
  for (let r = 0; r < hidden.shape[0]!; r++) {
    const target = given(r);
    if (target >= vocabulary)
      throw new DeviceError("linearCrossEntropy", `target ${target} of row ${r} is outside ${vocabulary} classes`);
    if (target >= 0) active.push(r);
    else {
      lossAt(r, 0);
      correctAt?.(r, 0);
    }
  }
  if (gradHidden) clearRows(cpu, gradHidden, (r) => given(r) < 0);
  if (gradWeight) clearRows(cpu, gradWeight, () => true);
  for (let first = 0; first < active.length; first += GROUP_ROWS) {
    const rows = active.slice(first, first + GROUP_ROWS);
    lossOfRows(cpu, args, rows, given, lossAt, correctAt);
  }
  return true;
}

/** Loss and gradients of rows that all have a target. */
function lossOfRows(
  cpu: CpuContext,
  { hidden, weight, scale, gradHidden, gradWeight }: LinearCrossEntropyArgs,
  rows: readonly number[],
  targetOf: (row: number) => number,
  setLoss: (row: number, value: number) => void,
  setCorrect: ((row: number, value: number) => void) | undefined,
): void {
  const [vocabulary, size] = weight.shape as [number, number];
  const count = rows.length;
  const floats = (n: number) => Math.ceil(n / 16) * 16;
  const width = Math.min(BLOCK_CLASSES, vocabulary);
  const sizes = {
    hidden: count * size,
    logits: count * width,
    carried: gradHidden ? count * size : 0,
    maximum: count,
    sum: count,
    scale: count,
  };
  const total = Object.values(sizes).reduce((sum, n) => sum + floats(n), 0);
  cpu.scratch(4 * total, (base) => {
    let next = base;
    const part = (n: number) => {
      const address = next;
      next += 4 * floats(n);
      return { address, values: cpu.memory.f32(address, n) };
    };
    const gathered = part(sizes.hidden);
    const logits = part(sizes.logits);
    const carried = part(sizes.carried);
    const maximum = part(count);
    const sum = part(count);
    const scales = part(count);

    copyRows(cpu, hidden, rows, gathered.values);
    carried.values.fill(0);
    maximum.values.fill(Number.NEGATIVE_INFINITY);
    sum.values.fill(0);
    const scaleOf = element(cpu, scale);
    for (const [i, row] of rows.entries()) scales.values[i] = scaleOf(row);
    const perCall = Math.max(1, Math.ceil(count / (8 * cpu.threads)));
    const targetLogit = new Float64Array(count);

    const weightAddress = cpu.address(weight, "linearCrossEntropy");
    const weightBytes = BYTES[weight.dtype];
    const eachBlock = (
      visit: (first: number, classes: number, block: { address: number; row: number; column: number }) => void,
    ) => {
      for (let first = 0; first < vocabulary; first += width) {
        const classes = Math.min(width, vocabulary - first);
        const address = weightAddress + first * weight.strides[0]! * weightBytes;
        const block = { address, row: weight.strides[0]!, column: 1 };
        // logits = hidden · Wᵀ
        matmulAt(cpu, {
          ...{ m: count, n: classes, k: size, element: weight.dtype as Weight },
          a: { address: gathered.address, row: size, column: 1 },
          b: { address, row: 1, column: weight.strides[0]! },
          c: { address: logits.address, row: width, column: 1 },
        });
        visit(first, classes, block);
      }
    };
    const eachTarget = (first: number, classes: number, visit: (place: number, i: number) => void) => {
      rows.forEach((row, i) => {
        const target = targetOf(row) - first;
        if (target >= 0 && target < classes) visit(i * width + target, i);
      });
    };

    eachBlock((first, classes, block) => {
      eachTarget(first, classes, (place, i) => (targetLogit[i] = logits.values[place]!));
      const softmax = {
        ...{ n: classes, logits: logits.address, sl: width, maximum: maximum.address, sum: sum.address },
        ...{ carried: carried.address, sc: size, width: gradHidden ? size : 0 },
      };
      cpu.kernels.run(softmaxBlockKernel, softmax, count, perCall);
      if (!gradHidden) return;
      // carried += exponentials · W
      matmulAt(cpu, {
        ...{ m: count, n: size, k: classes, element: weight.dtype as Weight, accumulate: true },
        a: { address: logits.address, row: width, column: 1 },
        b: block,
        c: { address: carried.address, row: size, column: 1 },
      });
    });

    for (let i = 0; i < count; i++) {
      const logSumExp = maximum.values[i]! + Math.log(sum.values[i]!);
      setLoss(rows[i]!, logSumExp - targetLogit[i]!);
      setCorrect?.(rows[i]!, targetLogit[i]! >= maximum.values[i]! ? 1 : 0);
      maximum.values[i] = logSumExp; // the shift of the gradient to the weights
    }
    if (gradHidden) {
      const out = cpu.array(gradHidden);
      const weightArray = cpu.array(weight);
      for (let i = 0; i < count; i++) {
        const to = gradHidden.offset + rows[i]! * gradHidden.strides[0]!;
        const from = weight.offset + targetOf(rows[i]!) * weight.strides[0]!;
        const row = readRow(weightArray, weight, from, 1, size);
        const [factor, share] = [scales.values[i]!, 1 / sum.values[i]!];
        for (let f = 0; f < size; f++) {
          out[to + f] = factor * (carried.values[i * size + f]! * share - row[f]!);
        }
      }
    }
    if (!gradWeight) return;
    const gradAddress = cpu.address(gradWeight, "linearCrossEntropy");
    eachBlock((first, classes) => {
      const values = { n: classes, logits: logits.address, sl: width, shift: maximum.address, scale: scales.address };
      cpu.kernels.run(softmaxGradKernel, values, count, perCall);
      eachTarget(first, classes, (place, i) => (logits.values[place]! -= scales.values[i]!));
      // gradient of the block's weights += (scale · (softmax − target))ᵀ · hidden
      matmulAt(cpu, {
        ...{ m: classes, n: size, k: count, element: "f32", accumulate: true },
        a: { address: logits.address, row: 1, column: width },
        b: { address: gathered.address, row: size, column: 1 },
        c: { address: gradAddress + 4 * first * gradWeight.strides[0]!, row: gradWeight.strides[0]!, column: 1 },
      });
    });
  });
}

/** Reads element `i` of a vector. */
function element(cpu: CpuContext, view: View): (i: number) => number {
  const array = cpu.array(view);
  return (i) => array[view.offset + i * view.strides[0]!]!;
}

function writer(cpu: CpuContext, view: View): (i: number, value: number) => void {
  const array = cpu.array(view);
  return (i, value) => {
    array[view.offset + i * view.strides[0]!] = value;
  };
}

function clearRows(cpu: CpuContext, view: View, wanted: (row: number) => boolean): void {
  const array = cpu.array(view);
  for (let r = 0; r < view.shape[0]!; r++) {
    const first = view.offset + r * view.strides[0]!;
    if (wanted(r)) array.fill(0, first, first + view.shape[1]!);
  }
}

function copyRows(cpu: CpuContext, view: View, rows: readonly number[], to: Float32Array): void {
  const array = cpu.array(view) as Float32Array;
  const size = view.shape[1]!;
  rows.forEach((row, i) => {
    const first = view.offset + row * view.strides[0]!;
    to.set(array.subarray(first, first + size), i * size);
  });
}
