// Products with weights in quantised blocks: which kernels, with which arguments.
import { BLOCKS, type BlockType, fromF16 } from "../../dtype.ts";
import type { QuantizableType } from "../../quantized/encode.ts";
import type { View } from "../device.ts";
import type { CpuContext } from "./context.ts";
import { fewRowsChunk } from "./kernels/gemv.ts";
import {
  BLOCK_GEMV_ROWS,
  BLOCK_WORKSPACE_BYTES,
  blockGemv,
  decodeRows,
  encodeRows,
  quantizedRowBytes,
  quantizeRows,
  sumsFactor,
} from "./kernels/quantized.ts";
import type { Product } from "./matmul.ts";

/** Decoded weights that exist at a time, in elements: they stay in the last cache between decoding and product. */
const SLAB_ELEMENTS = 1 << 20;
/** Where `gemm` cuts sums: slabs along the inner dimension are multiples, so that slabs change no bits. */
const SLAB_STEP = 256;

type BlockProduct = Product & { readonly element: BlockType };
type FloatProduct = (product: Product) => void;

/** `c = alpha·a·b + source` with b in blocks along k (a weight's transpose) or along n, whole blocks in every row. */
export function blockProduct(cpu: CpuContext, product: BlockProduct, multiply: FloatProduct): void {
  if (product.b.column === 1) alongColumns(cpu, product, multiply);
  else if (product.rows === "few" && product.a.column === 1) byBytes(cpu, product);
  else alongInner(cpu, product, multiply);
}

/** Rounds rows to blocks; false where no kernel takes the type and strides. */
export function quantize(cpu: CpuContext, x: View, out: View): boolean {
  if ((x.dtype !== "f32" && x.dtype !== "bf16") || x.shape.length !== 2 || x.strides[1] !== 1) return false;
  const [rows, n] = x.shape as [number, number];
  const { slots, address: workspace } = cpu.workspace(BLOCK_WORKSPACE_BYTES);
  const values = { x: cpu.address(x, "quantize"), ldx: x.strides[0]!, blocks: n / 32, slots, workspace };
  const kernel = encodeRows[out.dtype as QuantizableType][x.dtype];
  cpu.kernels.run(kernel, { ...values, out: cpu.address(out, "quantize") }, rows, chunkOf(rows, cpu.threads));
  return true;
}

/** Whether b's blocks are whole where its rows or columns begin. */
export function fitsBlocks(type: BlockType, b: { row: number; column: number }, k: number, n: number): boolean {
  const { elements } = BLOCKS[type];
  const [length, stride] = b.column === 1 ? [n, b.row] : [k, b.column];
  return length % elements === 0 && stride % elements === 0;
}

function byBytes(cpu: CpuContext, { m, n, k, alpha, element, a, b, c, source }: BlockProduct): void {
  const { elements, bytes } = BLOCKS[element];
  const rowBytes = quantizedRowBytes(k);
  const chunk = fewRowsChunk(n, (b.column / elements) * bytes, cpu.threads);
  const workspace = cpu.workspace(BLOCK_WORKSPACE_BYTES);
  cpu.scratch(m * rowBytes, (rows) => {
    const constant = sumsFactor(element);
    // On this thread: waking another would take longer.
    cpu.kernels.run(quantizeRows, { a: a.address, lda: a.row, groups: k / 32, out: rows, constant }, m, m);
    for (let first = 0; first < m; first += BLOCK_GEMV_ROWS) {
      const count = Math.min(BLOCK_GEMV_ROWS, m - first);
      cpu.kernels.run(
        blockGemv[element][count - 1]!,
        {
          ...{ a: rows + first * rowBytes, aRow: rowBytes },
          ...{ w: b.address, wRow: (b.column / elements) * bytes, blocks: k / elements },
          ...{ c: c.address + 4 * first * c.row, ldc: c.row, alpha },
          ...{ source: source.address + first * source.row, sourceRow: source.row, sourceColumn: source.column },
          ...{ slots: workspace.slots, workspace: workspace.address, halves: halvesOf(cpu) },
        },
        n,
        chunk,
      );
    }
  });
}

/** B's columns, rows of the weight, a slab at a time: a slab gives columns of C. */
function alongInner(cpu: CpuContext, product: BlockProduct, multiply: FloatProduct): void {
  const { n, k, b, c, source } = product;
  const slab = Math.max(SLAB_STEP, Math.floor(SLAB_ELEMENTS / k / SLAB_STEP) * SLAB_STEP);
  decoded(cpu, product, n, Math.min(slab, n), b.column, k, (first, count, address) => {
    multiply({
      ...product,
      ...{ n: count, element: "f32", b: { address, row: 1, column: k } },
      c: { ...c, address: c.address + 4 * first },
      source: { ...source, address: source.address + 4 * first * source.column },
    });
  });
}

/** B's rows a slab at a time: a slab gives a part of every sum. */
function alongColumns(cpu: CpuContext, product: BlockProduct, multiply: FloatProduct): void {
  const { n, k, a, b, c } = product;
  const slab = Math.max(SLAB_STEP, Math.floor(SLAB_ELEMENTS / n / SLAB_STEP) * SLAB_STEP);
  decoded(cpu, product, k, Math.min(slab, k), b.row, n, (first, count, address) => {
    const before = { address: c.address, row: 4 * c.row, column: 1 };
    multiply({
      ...product,
      ...{ k: count, element: "f32", b: { address, row: n, column: 1 } },
      a: { ...a, address: a.address + 4 * first * a.column },
      source: first === 0 ? product.source : before,
    });
  });
}

/** Decodes `slab` of the weight's `rows` at a time, `length` elements each, and hands them on. */
function decoded(
  cpu: CpuContext,
  { element, b }: BlockProduct,
  rows: number,
  slab: number,
  stride: number,
  length: number,
  use: (first: number, count: number, address: number) => void,
): void {
  const { elements, bytes } = BLOCKS[element];
  const wRow = (stride / elements) * bytes;
  cpu.scratch(4 * slab * length, (out) => {
    for (let first = 0; first < rows; first += slab) {
      const count = Math.min(slab, rows - first);
      const workspace = cpu.workspace(BLOCK_WORKSPACE_BYTES);
      cpu.kernels.run(
        decodeRows[element],
        {
          ...{ w: b.address + first * wRow, wRow, blocks: length / elements, out, ldo: length },
          ...{ slots: workspace.slots, workspace: workspace.address, halves: halvesOf(cpu) },
        },
        count,
        chunkOf(count, cpu.threads),
      );
      use(first, count, out);
    }
  });
}

const tables = new WeakMap<CpuContext, number>();

/** The address of a table of all half-precision numbers as f32, made on first use; it lives as long as the device. */
function halvesOf(cpu: CpuContext): number {
  let address = tables.get(cpu);
  if (address === undefined) {
    address = cpu.memory.allocate(4 * 0x10000);
    const table = cpu.memory.f32(address, 0x10000);
    for (let bits = 0; bits < 0x10000; bits++) table[bits] = fromF16(bits);
    tables.set(cpu, address);
  }
  return address;
}

/** Rows of the weight that one call takes: eight calls a thread even out threads of unequal speed. */
const chunkOf = (rows: number, threads: number) => Math.max(16, Math.ceil(rows / (8 * threads)));
