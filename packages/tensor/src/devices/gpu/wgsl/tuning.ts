import type { Tiling } from "./matmul.ts";

/** Where nothing was measured: what a GPU of a laptop does well. */
export const DEFAULT_TILING: Tiling = {
  large: { kind: "shared", lanesM: 8, lanesN: 16, rows: 8, columns: 8, depth: 16 },
  small: { kind: "shared", lanesM: 8, lanesN: 8, rows: 4, columns: 4, depth: 16 },
  columns: { invocations: 128, lanes: 32, columns: 2 },
  rows: { invocations: 128, lanes: 16, columns: 4 },
};
