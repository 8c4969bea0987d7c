import type { Tiling } from "./matmul.ts";

/** Where nothing was measured: what a laptop's GPU does well. */
export const DEFAULT_TILING: Tiling = {
  large: { kind: "shared", lanesM: 8, lanesN: 16, rows: 8, columns: 8, depth: 16 },
  small: { kind: "shared", lanesM: 8, lanesN: 8, rows: 4, columns: 4, depth: 16 },
  columns: { invocations: 128, lanes: 32, columns: 2 },
  rows: { invocations: 128, lanes: 16, columns: 4 },
  attentionSide: 4,
};

/**
 * For drivers that compute on the processor: one invocation is one lane of a vector, all lanes of which read the same element
 * of a; barriers cost more than they save, and long shaders take seconds to compile.
 */
export const SOFTWARE_TILING: Tiling = {
  large: { kind: "direct", lanesM: 1, lanesN: 8, rows: 8, columns: 4, depth: 4 },
  small: { kind: "direct", lanesM: 1, lanesN: 8, rows: 8, columns: 4, depth: 4 },
  columns: { invocations: 32, lanes: 8, columns: 1 },
  rows: { invocations: 32, lanes: 8, columns: 4 },
  attentionSide: 1,
};
