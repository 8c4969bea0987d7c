import { describe, expect, test } from "bun:test";
import { AdamW, clipGradNorm, GradientError, SCHEDULES, schedule, tensor } from "../index.ts";

describe("AdamW", () => {
  test("the first step has the size of the rate, against the gradient's sign", async () => {
    const p = tensor([1, 1, 1], { requiresGrad: true });
    p.mul(tensor([3, -0.01, 0]))
      .sum()
      .backward();
    const optimizer = new AdamW([p], { lr: 0.1 });
    optimizer.step();
    const moved = [...(await p.data())];
    [0.9, 1.1, 1].forEach((want, i) => {
      expect(moved[i]).toBeCloseTo(want, 5);
    });
  });

  test("decay pulls towards 0 apart from the gradient; a parameter without a gradient stays", async () => {
    const [p, still] = [tensor([2], { requiresGrad: true }), tensor([2], { requiresGrad: true })];
    const optimizer = new AdamW([p, still], { lr: 0.1, weightDecay: 0.5 });
    p.mul(0).sum().backward();
    optimizer.step();
    expect(await p.item()).toBeCloseTo(1.9, 6);
    expect(await still.item()).toBe(2);
    optimizer.zeroGrad();
    expect(p.grad).toBeUndefined();
  });

  test("each parameter at its own rate", async () => {
    const params = [tensor([1], { requiresGrad: true }), tensor([1], { requiresGrad: true })];
    params[0].add(params[1]).sum().backward();
    new AdamW(params, { lr: 0.01, rateFactors: [1, 16] }).step();
    expect(await params[0].item()).toBeCloseTo(0.99, 5);
    expect(await params[1].item()).toBeCloseTo(0.84, 5);
  });

  test("refuses what is no trainable leaf", () => {
    const p = tensor([1], { requiresGrad: true });
    expect(() => new AdamW([p, tensor([1])])).toThrow(
      new GradientError("AdamW", "parameter 1 is no leaf that requires a gradient"),
    );
    expect(() => new AdamW([p.mul(2)])).toThrow(GradientError);
  });
});

describe("clipGradNorm", () => {
  const run = async (values: number[], max: number): Promise<number[]> => {
    const [a, b] = [tensor([0, 0], { requiresGrad: true }), tensor([0], { requiresGrad: true })];
    a.mul(tensor(values.slice(0, 2)))
      .sum()
      .add(b.mul(values[2]).sum())
      .backward();
    const { norm, gradScale } = clipGradNorm([a, b, tensor([1], { requiresGrad: true })], max);
    return [await norm.item(), await gradScale.item()];
  };
  test("scales by maxNorm / (norm + 1e-6), never up", async () => {
    expect(await run([3, 0, 4], 1)).toEqual([5, Math.fround(1 / Math.fround(5.000001))]);
    expect(await run([0.3, 0, 0.4], 1)).toEqual([0.5, 1]);
    expect(await run([0, 0, 0], 1)).toEqual([0, 1]);
  });
  test("tells of gradients that are not finite", async () => {
    expect(await run([Number.NaN, 0, 1], 1)).toEqual([Number.NaN, Number.NaN]);
    expect(await run([Number.POSITIVE_INFINITY, 0, 1], 1)).toEqual([Number.POSITIVE_INFINITY, 0]);
  });
});

describe("schedule", () => {
  test("rises from 0 over the warm-up, then decays from 1, as transformers counts", () => {
    const factors = (name: (typeof SCHEDULES)[number], warmup: number, n: number): number[] =>
      Array.from({ length: n }, (_, i) => schedule(name, { warmup })(i + 1, n));
    expect(factors("linear", 0, 4)).toEqual([1, 0.75, 0.5, 0.25]);
    expect(factors("linear", 0.5, 4)).toEqual([0, 0.5, 1, 0.5]);
    expect(factors("constant", 0.25, 4)).toEqual([0, 1, 1, 1]);
    expect(factors("cosine", 0, 2)).toEqual([1, 0.5]);
    expect(factors("linear", 0.3, 5).slice(0, 3)).toEqual([0, 0.5, 1]); // 1.5 steps of warm-up are 2
    expect(schedule("linear", { warmup: 1 })(1, 1)).toBe(0);
  });
  test("restarts, a lowest rate, a warm-up in steps: as transformers counts", () => {
    const factors = (name: (typeof SCHEDULES)[number], options: Parameters<typeof schedule>[1], n: number): number[] =>
      Array.from({ length: n }, (_, i) => Number(schedule(name, options)(i + 1, n).toFixed(6)));
    // get_cosine_with_hard_restarts_schedule_with_warmup(optimizer, 2, 10, num_cycles=2)
    expect(factors("cosine_with_restarts", { warmupSteps: 2, cycles: 2 }, 10)).toEqual([
      0, 0.5, 1, 0.853553, 0.5, 0.146447, 1, 0.853553, 0.5, 0.146447,
    ]);
    // get_cosine_with_min_lr_schedule_with_warmup(optimizer, 1, 5, min_lr_rate=0.1)
    expect(factors("cosine", { warmupSteps: 1, minFactor: 0.1 }, 5)).toEqual([0, 1, 0.868198, 0.55, 0.231802]);
    expect(factors("linear", { warmup: 0.5, warmupSteps: 0, minFactor: 0.5 }, 2)).toEqual([1, 0.75]);
  });
  test("is never negative and never above 1", () => {
    for (const name of SCHEDULES) {
      for (const warmup of [0, 0.1, 0.5, 1]) {
        for (let n = 1; n < 12; n++) {
          for (let k = 1; k <= n; k++) {
            const factor = schedule(name, { warmup, cycles: 3 })(k, n);
            expect(factor >= 0 && factor <= 1).toBe(true);
          }
        }
      }
    }
  });
});
