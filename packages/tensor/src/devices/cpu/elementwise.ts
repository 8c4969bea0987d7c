// Elementwise programs and their reductions: which kernel, with which arguments.
import type { Program } from "../../expr/program.ts";
import type { ReduceKind, View } from "../device.ts";
import type { CpuContext } from "./context.ts";
import { coalesce, planRows, type RowPlan, rowChunk } from "./iteration.ts";
import { type ElementwiseForm, elementwiseKernel, fitsKernel } from "./kernels/elementwise.ts";
import { columnKernel, rowKernel } from "./kernels/reduce.ts";
import type { Kernel } from "./lang/kernel.ts";

type Values = Record<string, number>;

/** Kernels of each program, by how the operands lie; made once. */
const made = new WeakMap<Program, Map<number, Kernel>>();

/** What kinds of kernel are made of a program. */
const KINDS = { map: 0, sumRows: 1, maxRows: 2, minRows: 3, sumColumns: 4, maxColumns: 5, minColumns: 6 } as const;

function kernelOf(kind: keyof typeof KINDS, program: Program, form: ElementwiseForm, make: () => Kernel): Kernel {
  let code: number = KINDS[kind];
  for (const { element, repeated } of form.inputs) code = 4 * code + (element === "bf16" ? 2 : 0) + (repeated ? 1 : 0);
  code = 4 * code + (form.out === "bf16" ? 2 : 0) + (form.accumulate ? 1 : 0);
  let kernels = made.get(program);
  if (!kernels) made.set(program, (kernels = new Map()));
  let kernel = kernels.get(code);
  if (!kernel) kernels.set(code, (kernel = make()));
  return kernel;
}

/** Integers beyond 2²⁴ are not f32, so they keep to the loops. */
const vectorTypes = (views: readonly View[]) => views.every(({ dtype }) => dtype === "f32" || dtype === "bf16");

function formOf(inputs: readonly View[], steps: readonly number[], out: View, accumulate: boolean): ElementwiseForm {
  return {
    inputs: inputs.map((view, i) => ({ element: view.dtype as "f32" | "bf16", repeated: steps[i] === 0 })),
    out: out.dtype as "f32" | "bf16",
    accumulate,
  };
}

/** Addresses and row strides of a plan's views, the output's first, under the kernels' names for them. */
function operands(
  cpu: CpuContext,
  op: string,
  views: readonly View[],
  plan: RowPlan,
  params: readonly number[],
): Values {
  const values: Values = { columns: plan.columns, total: plan.total };
  for (const [v, { offset, rowStride }] of plan.views.entries()) {
    const view = views[v]!;
    const bytes = view.dtype === "bf16" ? 2 : 4;
    values[v === 0 ? "out" : `x${v - 1}`] = cpu.address(view, op) + (offset - view.offset) * bytes;
    values[v === 0 ? "so" : `s${v - 1}`] = rowStride;
  }
  for (const [i, value] of params.entries()) values[`p${i}`] = value;
  return values;
}

/** Runs `out = program(inputs, params) (+ out)`; false where no kernel takes the program, the types or the strides. */
export function elementwise(
  cpu: CpuContext,
  program: Program,
  params: readonly number[],
  inputs: readonly View[],
  out: View,
  accumulate = false,
): boolean {
  const views = [out, ...inputs];
  if (!fitsKernel(program) || !vectorTypes(views)) return false;
  const plans = planRows(views);
  if (plans === undefined) return false;
  for (const plan of plans) {
    if (plan.columns > 1 && plan.views[0]!.step !== 1) return false;
    const steps = plan.views.slice(1).map((view) => view.step);
    const form = formOf(inputs, steps, out, accumulate);
    const kernel = kernelOf("map", program, form, () => elementwiseKernel(program, form));
    cpu.kernels.run(kernel, operands(cpu, "elementwise", views, plan, params), plan.rows, rowChunk(plan.columns));
  }
  return true;
}

/** Runs a reduction along the last dimension or down the rows of a matrix; false for all others. */
export function reduce(
  cpu: CpuContext,
  kind: ReduceKind,
  program: Program,
  params: readonly number[],
  inputs: readonly View[],
  out: View,
  accumulate = false,
): boolean {
  const views = [out, ...inputs];
  if (out.dtype !== "f32" || !fitsKernel(program) || !vectorTypes(views)) return false;
  const { sizes, steps } = coalesce(
    out.shape,
    views.map((view) => view.strides),
  );
  if (sizes.includes(0) || sizes.length === 0 || sizes.length > 2) return false;
  if (steps.some((s) => s.at(-1) !== 0 && s.at(-1) !== 1)) return false;
  const reduced = steps[0]!.map((step) => step === 0);
  const [plan] = planRows(views)!;
  const inputSteps = steps.slice(1).map((s) => s.at(-1)!);
  const form = formOf(inputs, inputSteps, out, accumulate);
  const values = operands(cpu, "reduce", views, plan!, params);

  if (sizes.length === 2 && reduced[0] && !reduced[1] && steps[0]![1] === 1) {
    const kernel = kernelOf(`${kind}Columns`, program, form, () => columnKernel(kind, program, form));
    const items = Math.ceil(plan!.columns / cpu.kernels.target.lanes);
    const perCall = Math.max(8, Math.ceil(items / (4 * cpu.threads)));
    cpu.kernels.run(kernel, { ...values, n: plan!.columns, rows: plan!.rows }, items, perCall);
    return true;
  }
  if (!reduced.at(-1)) return false;
  values.ones = cpu.ones;
  if (sizes.length === 2 && !reduced[0]) {
    const kernel = kernelOf(`${kind}Rows`, program, form, () => rowKernel(kind, program, form));
    cpu.kernels.run(kernel, values, plan!.rows, rowChunk(plan!.columns));
    return true;
  }
  if (sizes.length !== 1) return false;
  // All to one: pieces of fixed length, then what they gave in order.
  const pieces = { ...form, accumulate: false };
  const kernel = kernelOf(`${kind}Rows`, program, pieces, () => rowKernel(kind, program, pieces));
  const join = { sum: (a: number, b: number) => a + b, max: Math.max, min: Math.min }[kind];
  const place = cpu.array(out);
  const joined = cpu.scratch(4 * plan!.rows, (address) => {
    cpu.kernels.run(kernel, { ...values, out: address, so: 1 }, plan!.rows, rowChunk(plan!.columns));
    return cpu.memory.f32(address, plan!.rows).reduce((a, b) => join(a, b));
  });
  place[out.offset] = accumulate ? join(joined, place[out.offset]!) : joined;
  return true;
}
