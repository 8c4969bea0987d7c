// Matrix products: which kernel, with which arguments.
import { machineCode } from "#machine-code";
import { type BlockType, BYTES, isBlocks } from "../../dtype.ts";
import { FEW_ROWS, type MatmulOptions, type RowsKind, type View } from "../device.ts";
import type { CpuContext } from "./context.ts";
import { gemm, gemmWorkspaceBytes, packA, packATransposed, planGemm } from "./kernels/gemm.ts";
import { fewRowsChunk, GEMV_ROWS, gemv, gemvBlock, gemvGroups } from "./kernels/gemv.ts";
import { blockProduct, fitsBlocks } from "./quantized.ts";

/** One matrix of a call: where it begins, and elements from row to row and from column to column. */
interface Matrix {
  readonly address: number;
  readonly row: number;
  readonly column: number;
}

/** What a product is added to. */
interface Source {
  readonly address: number;
  /** Bytes from row to row. */
  readonly row: number;
  /** Elements from column to column. */
  readonly column: number;
}

/** Runs `out = alpha·a·b (+ out | + bias | + addend)`; false where no kernel takes these strides and types. */
export function matmul(cpu: CpuContext, a: View, b: View, out: View, options: MatmulOptions = {}): boolean {
  const { alpha = 1, accumulate = false, bias, addend, rows } = options;
  if (a.dtype !== "f32" || out.dtype !== "f32" || !isWeight(b.dtype)) return false;
  if (Number(accumulate) + Number(bias !== undefined) + Number(addend !== undefined) > 1) return false;
  if (addend && (addend.dtype !== "f32" || addend.shape.length !== 2 || addend.strides[1] !== 1)) return false;
  if (bias && (bias.dtype !== "f32" || (bias.shape[0] !== 1 && bias.strides[0] !== 1))) return false;
  const batches = foldBatches(a, b, out);
  const [m, n] = [batches.m, out.shape.at(-1)!];
  const k = a.shape.at(-1)!;
  if (k === 0) return false;
  const [left, right, result] = [matrix(a, m, k), matrix(b, k, n), matrix(out, m, n)];
  if ((left.column !== 1 && left.row !== 1) || (right.column !== 1 && right.row !== 1) || result.column !== 1)
    return false;
  if (isBlocks(b.dtype) && !fitsBlocks(b.dtype, right, k, n)) return false;
  // Checked once as whole views; the matrices of a batch lie inside.
  const [baseA, baseB, baseOut] = [a, b, out].map((view) => cpu.address(view, "matmul"));
  const apart: Source = addend
    ? { address: cpu.address(addend, "matmul"), row: 4 * addend.strides[0]!, column: 1 }
    : { address: bias ? cpu.address(bias, "matmul") : cpu.zeros, row: 0, column: bias ? 1 : 0 };
  const sizeB = BYTES[b.dtype];
  for (const { a: offsetA, b: offsetB, out: offsetOut } of batches.offsets) {
    const c = baseOut! + 4 * offsetOut;
    const source: Source = accumulate ? { address: c, row: 4 * result.row, column: 1 } : apart;
    product(cpu, {
      ...{ m, n, k, alpha, source, element: b.dtype, rows: rows ?? (m <= FEW_ROWS ? "few" : "many") },
      a: { ...left, address: baseA! + 4 * offsetA },
      b: { ...right, address: baseB! + sizeB * offsetB },
      c: { ...result, address: c },
    });
  }
  return true;
}

/** Element types that the right side of a product may have. */
export type Weight = "f32" | "bf16" | BlockType;

export function isWeight(dtype: View["dtype"]): dtype is Weight {
  return dtype === "f32" || dtype === "bf16" || isBlocks(dtype);
}

export interface Product {
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly alpha: number;
  readonly element: Weight;
  readonly rows: RowsKind;
  readonly a: Matrix;
  readonly b: Matrix;
  readonly c: Matrix;
  readonly source: Source;
}

/**
 * Runs `c = a·b (+ c)` on matrices by address, dense along one of their dimensions. A row of f32 or bf16 weights gives the
 * same bits for any number of rows.
 */
export function matmulAt(
  cpu: CpuContext,
  given: Omit<Product, "alpha" | "source" | "rows"> & { accumulate?: boolean },
): void {
  const { c, accumulate } = given;
  const source = accumulate
    ? { address: c.address, row: 4 * c.row, column: 1 }
    : { address: cpu.zeros, row: 0, column: 0 };
  manyRows(cpu, { ...given, rows: "many", alpha: 1, source });
}

/**
 * Runs a product by the means for few rows, whatever their number, in one pass over the weights as they lie; false where
 * `gemv` does not take the strides.
 */
function fewRows(cpu: CpuContext, given: Product): boolean {
  const { m, n, k, alpha, element, a, b, c, source } = given;
  if (given.rows === "many" || isBlocks(element) || a.column !== 1 || b.row !== 1) return false;
  const { kernels, threads } = cpu;
  const rowBytes = b.column * BYTES[element];
  const chunk = fewRowsChunk(n, rowBytes, threads);
  // Rows that are computed twice must not be added to twice.
  if (m > GEMV_ROWS && source.address !== c.address) {
    const values = {
      ...{ a: a.address, lda: a.row, w: b.address, ldw: b.column, c: c.address, ldc: c.row, alpha, k, m },
      ...{ source: source.address, sourceRow: source.row, sourceColumn: source.column, block: gemvBlock(rowBytes) },
    };
    kernels.run(gemvGroups[element], values, n, chunk);
    return true;
  }
  for (let first = 0; first < m; first += GEMV_ROWS) {
    const rows = Math.min(GEMV_ROWS, m - first);
    const values = {
      ...{ a: a.address + 4 * first * a.row, lda: a.row, w: b.address, ldw: b.column },
      ...{ c: c.address + 4 * first * c.row, ldc: c.row, alpha, k },
      ...{ source: source.address + first * source.row, sourceRow: source.row, sourceColumn: source.column },
    };
    kernels.run(gemv[element][rows - 1]!, values, n, chunk);
  }
  return true;
}

function product(cpu: CpuContext, given: Product): void {
  if (!fewRows(cpu, given)) manyRows(cpu, given);
}

/** Runs a product by the means for many rows, whatever their number. */
function manyRows(cpu: CpuContext, given: Product): void {
  if (machineCode?.tiles.product(cpu, given)) return;
  const { m, n, k, alpha, element, a, b, c, source } = given;
  if (isBlocks(element)) {
    blockProduct(cpu, { ...given, element }, (decoded) => manyRows(cpu, decoded));
    return;
  }
  const { kernels, threads } = cpu;
  const plan = planGemm(kernels.target, m, n, k, threads);
  const workspace = cpu.workspace(gemmWorkspaceBytes(kernels.target));
  cpu.scratch(plan.packedBytes, (packed) => {
    const pack = a.column === 1 ? packA : packATransposed;
    const lda = a.column === 1 ? a.row : a.column;
    kernels.run(
      pack,
      { a: a.address, packed, m, k, lda, tiles: plan.tiles },
      plan.tiles,
      packChunk(plan.tiles, threads),
    );
    const form = b.column === 1 ? "nn" : "nt";
    kernels.run(
      gemm[element][form],
      {
        ...{ packed, b: b.address, c: c.address, alpha, m, n, k, tiles: plan.tiles },
        ...{ source: source.address, sourceRow: source.row, sourceColumn: source.column },
        ...{ ldb: form === "nn" ? b.row : b.column, ldc: c.row, byRows: plan.byRows ? 1 : 0 },
        ...{ blockColumns: plan.blockColumns, slots: workspace.slots, workspace: workspace.address },
      },
      plan.items,
      plan.chunk,
    );
  });
}

const packChunk = (tiles: number, threads: number) => Math.max(4, Math.ceil(tiles / (4 * threads)));

/** The last two dimensions' strides; that of a dimension of size 1 is free, so it is chosen to be dense. */
function matrix(view: View, rows: number, columns: number): Omit<Matrix, "address"> {
  let [row, column] = view.strides.slice(-2) as [number, number];
  if (columns === 1 && row !== 1) column = 1;
  if (rows === 1 && column !== 1) row = 1;
  // Both dense: a row or column vector, read along its length.
  if (row === 1 && column === 1 && rows === 1) row = columns;
  return { row, column };
}

/**
 * Element offsets of the batch's matrices relative to the views' first elements. Where all share one B and the rows of A
 * and of the result go on evenly from one to the next, they are one matrix of more rows.
 */
function foldBatches(a: View, b: View, out: View): { m: number; offsets: { a: number; b: number; out: number }[] } {
  const batch = out.shape.slice(0, -2);
  let m = out.shape.at(-2)!;
  let d = batch.length - 1;
  const evenly = (view: View) => batch[d] === 1 || view.strides[d] === m * view.strides.at(-2)!;
  for (; d >= 0 && (batch[d] === 1 || b.strides[d] === 0) && evenly(a) && evenly(out); d--) m *= batch[d]!;
  const outer = batch.slice(0, d + 1);
  const offsets: { a: number; b: number; out: number }[] = [];
  const visit = (level: number, at: { a: number; b: number; out: number }) => {
    if (level === outer.length) return void offsets.push(at);
    for (let i = 0; i < outer[level]!; i++) {
      visit(level + 1, {
        a: at.a + i * a.strides[level]!,
        b: at.b + i * b.strides[level]!,
        out: at.out + i * out.strides[level]!,
      });
    }
  };
  visit(0, { a: 0, b: 0, out: 0 });
  return { m, offsets };
}
