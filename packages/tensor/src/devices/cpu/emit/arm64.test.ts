/** The arm64 emitter where it needs no arm64: whole kernels against GNU as, and the forms that code takes. */
import { describe, expect, test } from "bun:test";
import { assembleArm64, haveArm64As } from "../asm/testing.ts";
import { attention } from "../kernels/attention.ts";
import { attentionBackwardKeys, attentionBackwardQueries } from "../kernels/attention-gradients.ts";
import { gemm, packA, packATransposed } from "../kernels/gemm.ts";
import { gemv } from "../kernels/gemv.ts";
import { lowRankBackwardKernels, lowRankKernels } from "../kernels/low-rank.ts";
import { blockGemv, decodeRows } from "../kernels/quantized.ts";
import type { Builder } from "../lang/builder.ts";
import { type Arguments, buildKernel, defineKernel, type Kernel } from "../lang/kernel.ts";
import { NEON } from "../lang/target.ts";
import { emitArm64 } from "./arm64.ts";

const bytes = Object.values(blockGemv).map(([one]) => one) as unknown as Kernel[];
const kernels = [
  ...[packA, packATransposed, gemm.f32.nn, gemm.bf16.nt, attention, attentionBackwardKeys, attentionBackwardQueries],
  ...[lowRankKernels.dropped, lowRankBackwardKernels.dropped.toX],
  ...[gemv.bf16[0], gemv.bf16[3], gemv.f32[1], decodeRows.q6_k],
  ...bytes,
] as unknown as Kernel[];

test.skipIf(!haveArm64As)("whole kernels equal GNU as", () => {
  for (const dotProduct of [true, false]) {
    for (const kernel of dotProduct ? kernels : bytes) {
      const { code, listing } = emitArm64(buildKernel(kernel, NEON), { dotProduct, listing: true });
      const expected = assembleArm64(listing);
      expect(`${kernel.name} ${Buffer.from(code).toString("hex")}`).toBe(
        `${kernel.name} ${Buffer.from(expected).toString("hex")}`,
      );
    }
  }
});

test("what the caller keeps is saved where it is used, and the platform's registers are left alone", () => {
  for (const kernel of kernels) {
    const { listing } = emitArm64(buildKernel(kernel, NEON), { listing: true });
    const code = listing.filter((line) => /^[a-z]/.test(line) && !line.includes("sp"));
    const used = (names: string) => code.some((line) => new RegExp(`\\b(${names})\\b`).test(line));
    const around = (register: string) =>
      listing.filter((line) => line.includes(` ${register}, [sp`)).map((line) => line.slice(0, 3));
    expect(used("[xw](18|29|30)")).toBe(false);
    for (let i = 19; i <= 28; i++) if (used(`[xw]${i}`)) expect(around(`x${i}`)).toContain("str");
    for (let i = 8; i <= 15; i++) {
      expect([kernel.name, i, around(`d${i}`)]).toEqual([kernel.name, i, used(`[vqdsh]${i}`) ? ["str", "ldr"] : []]);
    }
  }
});

const args = { x: "f32*", y: "f32*", n: "index" } as const;

/** The listing of a kernel, comments and labels left out. */
function listing(build: (k: Builder, a: Arguments<typeof args>) => void, dotProduct = false): string[] {
  const { listing } = emitArm64(buildKernel(defineKernel("test", args, build), NEON), { dotProduct, listing: true });
  return listing.filter((line) => !/^(\/\/|\.|\w+:)/.test(line));
}

describe("forms", () => {
  test("a factor that is one number is a lane of its register, not a vector", () => {
    const code = listing((k, { x, y, n }) => {
      const sum = k.variable(k.zero());
      k.repeat(n, () => sum.addProduct(x.at(1).broadcast(), y.load()));
      y.store(sum);
    });
    expect(code).toContain("ldr s1, [x1, #4]");
    expect(code.some((line) => /^fmla v\d+\.4s, v\d+\.4s, v1\.s\[0\]$/.test(line))).toBe(true);
    expect(code.some((line) => line.startsWith("dup"))).toBe(false);
  });

  test("one that is anything else as well is a vector", () => {
    const code = listing((_, { x, y }) => {
      const one = x.at(1).broadcast();
      y.store(one.fma(y.load(), one));
    });
    expect(code.some((line) => line.startsWith("dup"))).toBe(true);
    expect(code.some((line) => line.includes(".s[0]") && line.startsWith("fmla"))).toBe(false);
  });

  test("constants of an innermost loop are loaded before it", () => {
    const code = listing((k, { y, n }) => {
      const p = k.variable(y);
      k.repeat(n, () => {
        p.store(p.load().mul(0.1).add(0.7));
        p.advance(4);
      });
    });
    const first = code.findIndex((line) => line.startsWith("ldr q") && !line.includes("constant"));
    expect(code.slice(first).some((line) => line.includes("constant"))).toBe(false);
    expect(code.slice(0, first).filter((line) => line.includes("constant")).length).toBe(2);
  });

  test("where the registers do not suffice for that, they are loaded where they are used", () => {
    const code = listing((k, { y, n }) => {
      const sums = Array.from({ length: 28 }, () => k.variable(k.zero()));
      k.repeat(n, () => {
        sums.forEach((sum, i) => {
          sum.set(
            y
              .load()
              .mul(0.1 + i)
              .add(sum),
          );
        });
      });
      for (const sum of sums) y.store(sum);
    });
    expect(code.filter((line) => line.includes("constant")).length).toBe(28);
    expect(code.some((line) => line.includes("[sp"))).toBe(true);
    expect(code.some((line) => /^str q\d+, \[sp/.test(line))).toBe(false);
  });

  test("products of bytes with and without their own instruction", () => {
    const build = (_: Builder, { x, y }: Arguments<typeof args>) =>
      y.as("i32").store(x.as("i32").loadInt().dot(y.as("i32").loadInt()));
    expect(listing(build, true).filter((line) => line.startsWith("sdot")).length).toBe(1);
    expect(listing(build, false).some((line) => line.startsWith("sdot"))).toBe(false);
    expect(listing(build, false).some((line) => line.startsWith("smull2"))).toBe(true);
  });
});
