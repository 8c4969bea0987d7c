/**
 * The change that LoRA puts beside a linear layer (Hu et al., 2021), low = s·dropout(x)·Aᵀ and out += low·Bᵀ, and its
 * gradients. The rank is small, so memory decides: each pass reads and writes every large matrix once, a few rows at a
 * time, which stay in the first-level cache. Dropped inputs and masks are never written out: they are drawn again.
 *
 * A row's results come from that row alone, in the same order for any number of rows. The gradients to A and B are
 * summed over the rows of an item in order, and then over the items.
 */
import type { Builder } from "../lang/builder.ts";
import { type Arguments, type ArgumentValues, defineKernel } from "../lang/kernel.ts";
import { claimWorkspace } from "../lang/math.ts";
import type { Target } from "../lang/target.ts";
import type { F32, Index, Pointer, VF } from "../lang/values.ts";
import { dropoutDraws, spanOf } from "./philox.ts";
import { rowPointer } from "./rows.ts";

/** Rows of A, and columns of `low`, that are multiplied at once. */
const RANKS = 4;
/** Rows whose gradients to A and B are one sum. */
export const BACKWARD_ROWS = 64;

const wide = (target: Target) => target.vectorRegisters >= 32;
/** Rows that are worked on together. */
const groupRows = (target: Target) => (wide(target) ? 4 : 2);
/** Vectors of columns that are worked on together. */
const groupVectors = (target: Target) => (wide(target) ? 2 : 1);
/** Rows of one item of the forward kernel. */
export const forwardRows = (target: Target): number => 2 * groupRows(target);

const paddedRank = (rank: number) => Math.ceil(rank / RANKS) * RANKS;

/** f32 elements of workspace that a thread needs, for rows of n elements. */
export function lowRankFloats(target: Target, n: number, rank: number): number {
  const span = spanOf(target.lanes);
  return groupRows(target) * (paddedRank(rank) + target.lanes + Math.ceil(n / span) * span);
}

const shared = {
  /** Columns of x, and of out. */
  n: "index",
  m: "index",
  rank: "index",
  rows: "index",
  /** s, and 1/(1−p). */
  alpha: "f32",
  scale: "f32",
  /** As in the dropout kernel. */
  places: "f32*",
  constants: "f32*",
  x: "f32*",
  /** Elements from row to row, here and below. */
  sx: "index",
  a: "f32*",
  sa: "index",
  /** B transposed, [rank, m]. */
  bt: "f32*",
  sbt: "index",
  low: "f32*",
  sl: "index",
  /** One i32 flag a thread, 0 at first. */
  slots: "i32*",
  /** `floats` numbers a thread: `lowRankFloats`. */
  workspace: "f32*",
  floats: "index",
} as const;
type Shared = Arguments<typeof shared>;
export type SharedValues = ArgumentValues<typeof shared>;

/** Columns in steps of a few vectors, whole ones first; `counts` where the last ones are cut. */
function columnBlocks(
  k: Builder,
  n: Index,
  vectors: number,
  body: (column: Index, counts: (Index | undefined)[]) => void,
) {
  const step = vectors * k.lanes;
  const whole = n.alignDown(step);
  k.loop({ to: whole, step }, (i) => body(i, Array(vectors).fill(undefined)));
  const rest = n.sub(whole);
  k.if(rest.gt(0), () =>
    body(
      whole,
      Array.from({ length: vectors }, (_, v) => rest.sub(v * k.lanes)),
    ),
  );
}

/** to[row][j] = alpha · Σ x[row]·matrix[j] for j below the rank, and something up to the next multiple of RANKS. */
function products(
  k: Builder,
  rows: readonly Pointer[],
  n: Index,
  matrix: Pointer,
  stride: Index,
  rank: Index,
  alpha: () => F32,
  to: readonly Pointer[],
): void {
  const last = rank.sub(1);
  k.loop({ to: rank, step: RANKS }, (j) => {
    // Past the last row of the matrix it is repeated.
    const others = Array.from({ length: RANKS }, (_, c) => rowPointer(matrix, j.add(c).min(last), stride));
    const sums = rows.map(() => others.map(() => k.variable(k.zero())));
    k.vectors(n, (i, count) => {
      const right = others.map((other) => other.at(i).load(count));
      rows.forEach((row, r) => {
        const left = row.at(i).load(count);
        for (const [c, value] of right.entries()) sums[r]![c]!.addProduct(left, value);
      });
    });
    const factor = alpha();
    sums.forEach((line, r) => {
      line.forEach((sum, c) => {
        to[r]!.at(j).at(c).store(sum.sum().mul(factor));
      });
    });
  });
}

/** The sums over j of low[row][j]·matrix[j][column …]. */
function mixed(
  k: Builder,
  low: readonly Pointer[],
  rank: Index,
  matrix: Pointer,
  stride: Index,
  counts: readonly (Index | undefined)[],
): VF[][] {
  const sums = low.map(() => counts.map(() => k.variable(k.zero())));
  const line = k.variable(matrix);
  k.loop({ to: rank }, (j) => {
    const values = counts.map((count, v) => line.at(v * k.lanes).load(count));
    low.forEach((row, r) => {
      const factor = row.at(j).broadcast();
      for (const [v, value] of values.entries()) sums[r]![v]!.addProduct(factor, value);
    });
    line.advance(stride);
  });
  return sums;
}

/** parts[j][column …] += Σ over rows of low[row][j]·values[row], rows in order. */
function gather(
  k: Builder,
  low: readonly Pointer[],
  rank: Index,
  values: readonly (readonly VF[])[],
  parts: Pointer,
  stride: Index,
  counts: readonly (Index | undefined)[],
): void {
  const line = k.variable(parts);
  k.loop({ to: rank }, (j) => {
    const factors = low.map((row) => row.at(j).broadcast());
    counts.forEach((count, v) => {
      const place = line.at(v * k.lanes);
      const sum = k.variable(place.load(count));
      for (const [r, row] of values.entries()) sum.addProduct(factors[r]!, row[v]!);
      place.store(sum, count);
    });
    line.advance(stride);
  });
}

/** Runs `body` for groups of rows from `first` to `end`, and for those left one by one. */
function eachGroup(k: Builder, first: Index, end: Index, body: (row: Index, count: number) => void): void {
  const rows = groupRows(k.target);
  const whole = first.add(end.sub(first).alignDown(rows));
  k.loop({ from: first, to: whole, step: rows }, (row) => body(row, rows));
  k.loop({ from: whole, to: end }, (row) => body(row, 1));
}

/** Parts of a thread's workspace for a group of `count` rows. */
function spaces(k: Builder, args: Shared, workspace: Pointer, count: number) {
  const lowStride = args.rank.add(RANKS - 1).alignDown(RANKS);
  const span = spanOf(k.lanes);
  const stride = args.n.add(span - 1).alignDown(span);
  const wideRows = workspace.at(lowStride.add(k.lanes).mul(groupRows(k.target))).fixed();
  return {
    low: Array.from({ length: count }, (_, r) => workspace.at(lowStride.mul(r)).fixed()),
    /** Rows of n elements, rounded up to whole draws. */
    rows: Array.from({ length: count }, (_, r) => wideRows.at(stride.mul(r)).fixed()),
    stride,
  };
}

interface Group {
  readonly row: Index;
  readonly count: number;
  readonly space: ReturnType<typeof spaces>;
}

/** What is left of a row's values after dropout goes into the group's space. Places `ahead` are asked for meanwhile. */
function drawRows(
  k: Builder,
  args: Shared,
  { row, count, space }: Group,
  of: (row: Index) => { values: (at: Index, some?: Index) => VF; ahead: readonly Pointer[] },
): void {
  const to = k.variable(space.rows[0]!);
  k.loop({ from: row, to: row.add(count) }, (each) => {
    const { values, ahead } = of(each);
    const draws = dropoutDraws(k, args.constants);
    const place = args.places.at(each.mul(2)).fixed();
    const step = (i: Index, rest?: Index) =>
      draws.mayDrop(place, i).forEach((keep, v) => {
        const at = i.add(v * k.lanes);
        to.at(at).store(keep(values(at, rest?.sub(v * k.lanes))));
        // Drawing leaves the memory idle.
        for (const pointer of ahead) pointer.at(at).prefetch();
      });
    const whole = args.n.alignDown(draws.span);
    k.loop({ to: whole, step: draws.span }, (i) => step(i));
    k.if(args.n.sub(whole).gt(0), () => step(whole, args.n.sub(whole)));
    to.advance(space.stride);
  });
}

function forwardKernel(dropped: boolean) {
  return defineKernel("lowRank", { ...shared, out: "f32*", so: "index" }, (k, args) => {
    const { slot, release } = claimWorkspace(k, args.slots);
    const workspace = args.workspace.at(slot.mul(args.floats)).fixed();
    const perItem = forwardRows(k.target);
    const first = k.begin.mul(perItem);
    eachGroup(k, first, k.end.mul(perItem).min(args.rows), (row, count) => {
      const space = spaces(k, args, workspace, count);
      if (dropped) {
        drawRows(k, args, { row, count, space }, (each) => {
          const [x, scale] = [rowPointer(args.x, each, args.sx), args.scale.splat()];
          return {
            values: (at, some) => x.at(at).load(some).mul(scale),
            ahead: [rowPointer(args.out, each, args.so)],
          };
        });
      }
      const inputs = dropped ? space.rows : space.rows.map((_, r) => rowPointer(args.x, row.add(r), args.sx));
      products(k, inputs, args.n, args.a.fixed(), args.sa, args.rank, () => args.alpha, space.low);
      space.low.forEach((low, r) => {
        const to = rowPointer(args.low, row.add(r), args.sl);
        k.vectors(args.rank, (j, some) => to.at(j).store(low.at(j).load(some), some));
      });
      const outs = space.low.map((_, r) => rowPointer(args.out, row.add(r), args.so));
      columnBlocks(k, args.m, groupVectors(k.target), (column, counts) => {
        const sums = mixed(k, space.low, args.rank, args.bt.at(column).fixed(), args.sbt, counts);
        outs.forEach((out, r) => {
          counts.forEach((some, v) => {
            const place = out.at(column).at(v * k.lanes);
            place.store(place.load(some).add(sums[r]![v]!), some);
          });
        });
      });
    });
    release();
  });
}

/** Items are `forwardRows` rows. */
export const lowRankKernels = { plain: forwardKernel(false), dropped: forwardKernel(true) } as const;

const backwardArgs = {
  ...shared,
  grad: "f32*",
  sg: "index",
  gradX: "f32*",
  sgx: "index",
  /** For each item [rank, n] and [rank, m]: its part of the gradients to A and to B transposed. */
  parts: "f32*",
} as const;

function backwardKernel(dropped: boolean, toX: boolean) {
  return defineKernel("lowRankBackward", backwardArgs, (k, args) => {
    const { slot, release } = claimWorkspace(k, args.slots);
    const workspace = args.workspace.at(slot.mul(args.floats)).fixed();
    k.loop({ from: k.begin, to: k.end }, (item) => {
      const partFloats = args.n.add(args.m).mul(args.rank);
      const partA = args.parts.at(item.mul(partFloats)).fixed();
      const partB = partA.at(args.n.mul(args.rank)).fixed();
      k.vectors(partFloats, (i, count) => partA.at(i).store(k.zero(), count));
      const first = item.mul(BACKWARD_ROWS);
      eachGroup(k, first, first.add(BACKWARD_ROWS).min(args.rows), (row, count) => {
        const space = spaces(k, args, workspace, count);
        const rowsOf = (from: Pointer, stride: Index) => space.low.map((_, r) => rowPointer(from, row.add(r), stride));
        const grads = rowsOf(args.grad, args.sg);
        products(k, grads, args.m, args.bt.fixed(), args.sbt, args.rank, () => args.alpha, space.low);
        if (dropped) {
          // What remains of each feature: 1/(1−p), or 0.
          drawRows(k, args, { row, count, space }, (each) => {
            const scale = args.scale.splat();
            const ahead = [rowPointer(args.x, each, args.sx)];
            if (toX) ahead.push(rowPointer(args.gradX, each, args.sgx));
            return { values: () => scale, ahead };
          });
        }
        const lows = rowsOf(args.low, args.sl);
        columnBlocks(k, args.m, groupVectors(k.target), (column, counts) => {
          const values = grads.map((grad) =>
            counts.map((some, v) =>
              grad
                .at(column)
                .at(v * k.lanes)
                .load(some),
            ),
          );
          gather(k, lows, args.rank, values, partB.at(column).fixed(), args.m, counts);
        });
        const inputs = rowsOf(args.x, args.sx);
        const kept = (r: number, column: Index, v: number, value: VF): VF => {
          if (!dropped) return value;
          const factor = space.rows[r]!.at(column)
            .at(v * k.lanes)
            .load();
          // Selected, not multiplied: a dropped infinity is 0, not NaN.
          return factor.compare("ne", 0).select(value.mul(factor), k.zero());
        };
        columnBlocks(k, args.n, groupVectors(k.target), (column, counts) => {
          const values = inputs.map((x, r) =>
            counts.map((some, v) =>
              kept(
                r,
                column,
                v,
                x
                  .at(column)
                  .at(v * k.lanes)
                  .load(some),
              ),
            ),
          );
          gather(k, space.low, args.rank, values, partA.at(column).fixed(), args.n, counts);
        });
        if (!toX) return;
        const outs = rowsOf(args.gradX, args.sgx);
        columnBlocks(k, args.n, groupVectors(k.target), (column, counts) => {
          const sums = mixed(k, space.low, args.rank, args.a.at(column).fixed(), args.sa, counts);
          outs.forEach((out, r) => {
            counts.forEach((some, v) => {
              const place = out.at(column).at(v * k.lanes);
              place.store(place.load(some).add(kept(r, column, v, sums[r]![v]!)), some);
            });
          });
        });
      });
    });
    release();
  });
}

const backwardKernels = (dropped: boolean) =>
  ({ toX: backwardKernel(dropped, true), notToX: backwardKernel(dropped, false) }) as const;

/** Items are `BACKWARD_ROWS` rows. */
export const lowRankBackwardKernels = { plain: backwardKernels(false), dropped: backwardKernels(true) } as const;

/** to[column][row] = from[row][column] (+ to): small matrices, element by element. An item is a row of `to`. */
function transposeKernel(accumulate: boolean) {
  const args = { rows: "index", from: "f32*", sf: "index", to: "f32*", st: "index" } as const;
  return defineKernel("transpose", args, (k, args) => {
    k.loop({ from: k.begin, to: k.end }, (column) => {
      const from = k.variable(args.from.at(column));
      const to = k.variable(rowPointer(args.to, column, args.st));
      k.repeat(args.rows, () => {
        const value = from.loadF32();
        to.store(accumulate ? to.loadF32().add(value) : value);
        from.advance(args.sf);
        to.advance(1);
      });
    });
  });
}

export const transposeKernels = { set: transposeKernel(false), add: transposeKernel(true) } as const;
