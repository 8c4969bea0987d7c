// How a strided operation is laid out for kernels: rows of elements that lie side by side, or are one element repeated.
import type { View } from "../device.ts";

/** Rows × columns, the same for all views of one call. */
export interface RowPlan {
  readonly rows: number;
  /** Elements of a row. */
  readonly columns: number;
  /** Elements in all: the last row may be shorter. */
  readonly total: number;
  /** For each view: element offset of the first row, elements between rows, and 0 or 1 between columns. */
  readonly views: readonly { readonly offset: number; readonly rowStride: number; readonly step: number }[];
}

/** Long rows are cut into pieces of this length: work for several threads, and small enough for the first-level cache. */
const ROW_ELEMENTS = 2048;

/** Dimensions as few as possible: those of size 1 left out, neighbours joined where every view steps evenly over both. */
export function coalesce(shape: readonly number[], strides: readonly (readonly number[])[]) {
  const sizes: number[] = [];
  const steps: number[][] = strides.map(() => []);
  for (let d = shape.length - 1; d >= 0; d--) {
    if (shape[d] === 1) continue;
    const inner = sizes.length - 1;
    if (inner >= 0 && strides.every((s, v) => s[d] === steps[v]![inner]! * sizes[inner]!)) {
      sizes[inner]! *= shape[d]!;
      continue;
    }
    sizes.push(shape[d]!);
    for (const [v, s] of strides.entries()) steps[v]!.push(s[d]!);
  }
  return { sizes: sizes.reverse(), steps: steps.map((s) => s.reverse()) };
}

/** Elements below which waking other threads costs more than it saves. */
const CHUNK_ELEMENTS = 16_384;

/** Rows that one call of a kernel takes. */
export function rowChunk(columns: number): number {
  return Math.max(1, Math.ceil(CHUNK_ELEMENTS / Math.max(1, columns)));
}

/** Whether a view's elements lie side by side in order. */
export function isDense({ shape, strides }: View): boolean {
  let step = 1;
  for (let d = shape.length - 1; d >= 0; d--) {
    if (shape[d] !== 1 && strides[d] !== step) return false;
    step *= shape[d]!;
  }
  return true;
}

function planDense(views: readonly View[]): RowPlan[] {
  let total = 1;
  for (const n of views[0]!.shape) total *= n;
  if (total === 0) return [];
  const columns = Math.min(total, ROW_ELEMENTS);
  const plan = views.map(({ offset }) => ({ offset, rowStride: columns, step: 1 }));
  return [{ rows: Math.ceil(total / columns), columns, total, views: plan }];
}

/**
 * Plans a call over views of one shape, as one plan for each index of its outer dimensions. Undefined where the last
 * dimension is neither dense nor repeated in some view: such a call takes the reference's loops.
 */
export function planRows(views: readonly View[]): RowPlan[] | undefined {
  if (views.every(isDense)) return planDense(views);
  const { sizes, steps } = coalesce(
    views[0]!.shape,
    views.map((view) => view.strides),
  );
  if (sizes.includes(0)) return [];
  const columns = sizes.at(-1) ?? 1;
  const lastSteps = steps.map((s) => s.at(-1) ?? 0);
  if (lastSteps.some((step) => step !== 0 && step !== 1)) return undefined;
  const offsets = views.map((view) => view.offset);
  if (sizes.length <= 1) {
    const cut = Math.min(columns, ROW_ELEMENTS);
    const plan = offsets.map((offset, v) => ({ offset, rowStride: lastSteps[v]! * cut, step: lastSteps[v]! }));
    return [{ rows: Math.ceil(columns / cut), columns: cut, total: columns, views: plan }];
  }
  const rows = sizes.at(-2)!;
  const outer = sizes.slice(0, -2);
  const plans: RowPlan[] = [];
  const index = outer.map(() => 0);
  for (;;) {
    const place = views.map((_, v) => ({
      offset: offsets[v]! + index.reduce((sum, i, d) => sum + i * steps[v]![d]!, 0),
      rowStride: steps[v]!.at(-2)!,
      step: lastSteps[v]!,
    }));
    plans.push({ rows, columns, total: rows * columns, views: place });
    let d = outer.length - 1;
    while (d >= 0 && ++index[d]! === outer[d]) index[d--] = 0;
    if (d < 0) return plans;
  }
}
