/** Whole kernels, as GNU as assembles their listing: what the tests of single instructions cannot see is how they meet. */
import { describe, expect, test } from "bun:test";
import { assemble, haveAs } from "../asm/testing.ts";
import { attention } from "../kernels/attention.ts";
import { attentionBackwardKeys, attentionBackwardQueries } from "../kernels/attention-gradients.ts";
import { gemm, packA, packATransposed } from "../kernels/gemm.ts";
import { gemmTiles, packTilesA } from "../kernels/gemm-tiles.ts";
import { gemv } from "../kernels/gemv.ts";
import { buildKernel, type Kernel } from "../lang/kernel.ts";
import { AMX, AVX2, AVX512 } from "../lang/target.ts";
import { emitX64 } from "./x64.ts";

const kernels = [
  ...[packA, packATransposed, gemm.f32.nn, gemm.bf16.nt, attention, attentionBackwardKeys, attentionBackwardQueries],
  ...[...gemv.bf16, ...gemv.f32],
] as unknown as Kernel[];

const tileKernels = [
  ...Object.values(packTilesA),
  ...[gemmTiles.bf16, gemmTiles.f32].flatMap((terms) => Object.values(terms).flatMap(({ nn, nt }) => [nn, nt])),
] as unknown as Kernel[];

describe.each([AVX2, AVX512, AMX].map((target) => [target.name, target] as const))("%s", (_, target) => {
  for (const abi of ["sysv", "win64"] as const) {
    test.skipIf(!haveAs)(`kernels for ${abi} equal GNU as`, () => {
      for (const kernel of target.tiles ? tileKernels : kernels) {
        const { code, listing } = emitX64(buildKernel(kernel, target), { abi, listing: true });
        const expected = assemble(listing);
        expect(`${kernel.name} ${Buffer.from(code).toString("hex")}`).toBe(
          `${kernel.name} ${Buffer.from(expected).toString("hex")}`,
        );
      }
    });
  }
});
