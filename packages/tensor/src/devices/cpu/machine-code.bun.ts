// Bun: machine code for x86-64 and arm64.
import { attentionBackwardOnTiles, attentionOnTiles, fitsTiles } from "./attention-tiles.ts";
import { emitArm64 } from "./emit/arm64.ts";
import { emitX64 } from "./emit/x64.ts";
import { AMX, AVX2, AVX512, NEON } from "./lang/target.ts";
import type { MachineCode } from "./machine-code.ts";
import { productOnTiles } from "./matmul-tiles.ts";
import { recordCalls } from "./recording.ts";

export const machineCode: MachineCode | undefined = {
  tiers: {
    amx: { target: AMX, emit: (code, listing) => emitX64(code, { listing }) },
    avx512: { target: AVX512, emit: (code, listing) => emitX64(code, { listing }) },
    avx2: { target: AVX2, emit: (code, listing) => emitX64(code, { listing }) },
    neon: {
      target: NEON,
      emit: (code, listing, features) => emitArm64(code, { listing, dotProduct: features?.dotProduct }),
    },
  },
  tiles: {
    product: productOnTiles,
    fitsAttention: fitsTiles,
    attention: attentionOnTiles,
    attentionBackward: attentionBackwardOnTiles,
  },
  record: recordCalls,
};
