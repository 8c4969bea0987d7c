/** What a kernel may know of the machine it is built for: sizes, never instructions. */
export interface Target {
  readonly name: "avx2" | "avx512" | "amx" | "neon" | "wasm";
  /** f32 lanes of a vector. */
  readonly lanes: number;
  readonly vectorRegisters: number;
  /** Bytes of an address. */
  readonly pointerBytes: 4 | 8;
  /** Multiply-add rounds once. */
  readonly fused: boolean;
  /** It has matrix tiles of bf16 (AMX); products with bf16 weights are made of them, see `kernels/gemm-tiles.ts`. */
  readonly tiles?: boolean;
  readonly gemm: {
    /** Rows of the register tile. */
    readonly rows: number;
    /** Vectors across the register tile. */
    readonly vectors: number;
    /** Depth of a block of the inner dimension: the two panels of a tile stay in the first-level cache. Part of the result: sums are cut there. */
    readonly depth: number;
    /** Rows of A kept in the second-level cache; a multiple of `rows`. */
    readonly blockRows: number;
    /** Inner elements of one round of the tile loop, a power of two: compilers of WebAssembly do best with a short one. */
    readonly unroll: number;
  };
}

export const AVX2: Target = {
  name: "avx2",
  lanes: 8,
  vectorRegisters: 16,
  pointerBytes: 8,
  fused: true,
  gemm: { rows: 6, vectors: 2, depth: 256, blockRows: 192, unroll: 4 },
};

export const AVX512: Target = {
  name: "avx512",
  lanes: 16,
  vectorRegisters: 32,
  pointerBytes: 8,
  fused: true,
  gemm: { rows: 12, vectors: 2, depth: 256, blockRows: 192, unroll: 4 },
};

export const AMX: Target = { ...AVX512, name: "amx", tiles: true };

/** A panel is 16 columns wide, as on the other targets of this width, so that heads of 64 are whole panels; 24 sums, 4 of B and the factor take 29 registers. */
export const NEON: Target = {
  name: "neon",
  lanes: 4,
  vectorRegisters: 32,
  pointerBytes: 8,
  fused: true,
  gemm: { rows: 6, vectors: 4, depth: 256, blockRows: 96, unroll: 4 },
};

export const WASM: Target = {
  name: "wasm",
  lanes: 4,
  vectorRegisters: 16,
  pointerBytes: 4,
  fused: false,
  gemm: { rows: 3, vectors: 4, depth: 256, blockRows: 96, unroll: 1 },
};
