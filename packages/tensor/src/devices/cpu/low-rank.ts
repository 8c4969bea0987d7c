// The low-rank change of a linear layer: which kernel, with which arguments.
import { IDENTITY } from "../../expr/program.ts";
import type { LowRankArgs, LowRankGradients, View } from "../device.ts";
import type { CpuContext } from "./context.ts";
import { isDense, rowChunk } from "./iteration.ts";
import {
  BACKWARD_ROWS,
  forwardRows,
  lowRankBackwardKernels,
  lowRankFloats,
  lowRankKernels,
  type SharedValues,
  transposeKernels,
} from "./kernels/low-rank.ts";
import { DROPOUT_WORDS, writeDropout } from "./kernels/philox.ts";
import { columnKernel } from "./kernels/reduce.ts";

const FORM = { inputs: [{ element: "f32", repeated: false }] } as const;
/** Sums down columns: written, or added. */
const [sumParts, addParts] = [false, true].map((accumulate) => columnKernel("sum", IDENTITY, { ...FORM, accumulate }));

const isMatrix = (view: View | undefined): boolean =>
  view === undefined || (view.dtype === "f32" && (view.strides[1] === 1 || view.shape[1] === 1));

function fits({ x, a, b, low, dropout }: LowRankArgs, ...others: (View | undefined)[]): boolean {
  if (dropout && !(dropout.p > 0 && dropout.p < 1 && isDense(dropout.rows))) return false;
  return [x, a, b, low, ...others].every(isMatrix);
}

/**
 * Gives `body` the arguments that both directions share, with B transposed and the dropout's constants in memory that it
 * borrows, and the address of `floats` more.
 */
function withShared(
  cpu: CpuContext,
  op: string,
  { x, a, b, low, scaling, dropout }: LowRankArgs,
  floats: number,
  body: (values: SharedValues, space: number) => void,
): void {
  const [rows, n] = x.shape as [number, number];
  const [m, rank] = b.shape as [number, number];
  const { kernels } = cpu;
  const workspaceFloats = lowRankFloats(kernels.target, n, rank);
  const { slots, address: workspace } = cpu.workspace(4 * workspaceFloats);
  const at = (view: View) => cpu.address(view, op);
  cpu.scratch(4 * (rank * m + DROPOUT_WORDS + floats), (bt) => {
    const constants = bt + 4 * rank * m;
    if (dropout) {
      cpu.touched();
      writeDropout(cpu.memory.u32(constants, DROPOUT_WORDS), dropout.key, dropout.p);
    }
    kernels.run(transposeKernels.set, { rows: m, from: at(b), sf: b.strides[0]!, to: bt, st: m }, rank, rank);
    body(
      {
        ...{ n, m, rank, rows, alpha: scaling, scale: dropout ? 1 / (1 - dropout.p) : 1 },
        ...{ places: dropout ? at(dropout.rows) : 0, constants },
        ...{ x: at(x), sx: x.strides[0]!, a: at(a), sa: a.strides[0]!, bt, sbt: m, low: at(low), sl: low.strides[0]! },
        ...{ slots, workspace, floats: workspaceFloats },
      },
      constants + 4 * DROPOUT_WORDS,
    );
  });
}

/** Runs `low = s·dropout(x)·Aᵀ, out += low·Bᵀ`; false where no kernel takes these strides. */
export function lowRank(cpu: CpuContext, args: LowRankArgs, out: View): boolean {
  if (!fits(args, out)) return false;
  const [rows, n] = args.x.shape as [number, number];
  withShared(cpu, "lowRank", args, 0, (values) => {
    const perItem = forwardRows(cpu.kernels.target);
    cpu.kernels.run(
      lowRankKernels[args.dropout ? "dropped" : "plain"],
      { ...values, out: cpu.address(out, "lowRank"), so: out.strides[0]! },
      Math.ceil(rows / perItem),
      Math.ceil(rowChunk(n) / perItem),
    );
  });
  return true;
}

/** Runs the gradients of `lowRank`; false where no kernel takes these strides. */
export function lowRankBackward(cpu: CpuContext, args: LowRankArgs, gradients: LowRankGradients): boolean {
  const { grad, gradX, gradA, gradB } = gradients;
  if (!fits(args, grad, gradX, gradA, gradB) || (gradA && !isDense(gradA))) return false;
  const [rows, n] = args.x.shape as [number, number];
  const [m, rank] = args.b.shape as [number, number];
  const op = "lowRankBackward";
  const items = Math.ceil(rows / BACKWARD_ROWS);
  const partFloats = rank * (n + m);
  const { kernels } = cpu;
  withShared(cpu, op, args, items * partFloats + rank * m, (values, parts) => {
    kernels.run(
      lowRankBackwardKernels[args.dropout ? "dropped" : "plain"][gradX ? "toX" : "notToX"],
      {
        ...{ ...values, parts, grad: cpu.address(grad, op), sg: grad.strides[0]! },
        ...(gradX ? { gradX: cpu.address(gradX, op), sgx: gradX.strides[0]! } : { gradX: 0, sgx: 0 }),
      },
      items,
    );
    const sum = (kernel: typeof sumParts, from: number, size: number, out: number) =>
      kernels.run(
        kernel!,
        { n: size, rows: items, x0: from, s0: partFloats, out },
        Math.ceil(size / kernels.target.lanes),
        rowChunk(items * kernels.target.lanes),
      );
    if (gradA) sum(gradients.accumulateA ? addParts : sumParts, parts, rank * n, cpu.address(gradA, op));
    if (!gradB) return;
    const turned = parts + 4 * items * partFloats;
    sum(sumParts, parts + 4 * rank * n, rank * m, turned);
    kernels.run(
      transposeKernels[gradients.accumulateB ? "add" : "set"],
      { rows: rank, from: turned, sf: m, to: cpu.address(gradB, op), st: gradB.strides[0]! },
      m,
      m,
    );
  });
  return true;
}
