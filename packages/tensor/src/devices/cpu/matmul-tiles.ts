// Matrix products on matrix tiles (AMX): which kernel, with which arguments.
import { isBlocks } from "../../dtype.ts";
import type { CpuContext } from "./context.ts";
import { fitsTiles, gemmTiles, packTilesA, planTiles, TILES_WORKSPACE_BYTES } from "./kernels/gemm-tiles.ts";
import { fitsWeightTiles, planWeightTiles, WEIGHT_TILES_WORKSPACE_BYTES, weightTiles } from "./kernels/weight-tiles.ts";
import type { Product } from "./matmul.ts";

/**
 * Runs a product on matrix tiles; false where the target has none or they do not take the sizes. What decides is the same for
 * every number of rows, so that a row's result is too.
 */
export function productOnTiles(cpu: CpuContext, given: Product): boolean {
  const { m, n, k, alpha, element, a, b, c, source } = given;
  const { kernels, terms, threads } = cpu;
  if (!kernels.target.tiles || isBlocks(element) || a.column !== 1) return false;
  const form = b.column === 1 ? "nn" : "nt";
  if (element === "bf16" && fitsWeightTiles(form, n, k)) {
    onWeightTiles(cpu, given, form);
    return true;
  }
  const shape = { element, form, m, n, k, terms } as const;
  if (!fitsTiles(shape)) return false;
  const { groups, packedBytes, items, table } = planTiles(shape, threads);
  const workspace = cpu.workspace(TILES_WORKSPACE_BYTES);
  // Both in f32 with three terms does not fit.
  const products = element === "bf16" ? gemmTiles.bf16[terms] : gemmTiles.f32[terms as 1 | 2];
  cpu.scratch(packedBytes + table.byteLength, (packed) => {
    const itemsAt = packed + packedBytes;
    cpu.touched();
    cpu.memory.i32(itemsAt, table.length).set(table);
    kernels.run(packTilesA[terms], { a: a.address, packed, m, k, lda: a.row, groups }, groups);
    kernels.run(
      products[form],
      {
        ...{ packed, b: b.address, c: c.address, alpha, m, n, k, groups, items: itemsAt },
        ...{ source: source.address, sourceRow: source.row, sourceColumn: source.column },
        ...{ ldb: form === "nn" ? b.row : b.column, ldc: c.row },
        ...{ slots: workspace.slots, workspace: workspace.address },
      },
      items,
    );
  });
  return true;
}

/** The same for whole blocks of weights. */
function onWeightTiles(cpu: CpuContext, given: Product, form: "nn" | "nt"): void {
  const { m, n, k, alpha, a, b, c, source } = given;
  const { kernels, terms, threads } = cpu;
  const { depth, items, table } = planWeightTiles(form, { m, n, k }, threads);
  const workspace = cpu.workspace(WEIGHT_TILES_WORKSPACE_BYTES);
  cpu.scratch(table.byteLength, (itemsAt) => {
    cpu.touched();
    cpu.memory.i32(itemsAt, table.length).set(table);
    kernels.run(
      weightTiles[form][terms],
      {
        ...{ a: a.address, w: b.address, c: c.address, alpha, m, k, depth, items: itemsAt },
        ...{ source: source.address, sourceRow: source.row, sourceColumn: source.column },
        ...{ lda: a.row, ldw: form === "nn" ? b.row : b.column, ldc: c.row },
        ...{ slots: workspace.slots, workspace: workspace.address },
      },
      items,
    );
  });
}
