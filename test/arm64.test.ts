/**
 * The NEON tier on arm64, emulated: Bun for arm64 under qemu runs parts of the packages' own tests and two steps of
 * training. Some two minutes; what is left out there (large sizes, child processes) runs on arm64 itself.
 */
import { describe, expect, test } from "bun:test";
import { createDevice } from "../packages/tensor/src/index.ts";
import { findArm64, runArm64 } from "./support/arm64.ts";
import { type StepNumbers, trainingSteps } from "./support/training-step.ts";

const emulated = await findArm64();
const command = "command" in emulated ? emulated.command : [];
if ("missing" in emulated) console.warn(`SKIPPED: arm64 tests, because ${emulated.missing}`);

const cpu = "./packages/tensor/src/devices/cpu";
const TIMEOUT_MS = 900_000;

/** Runs the tests of some files whose names match; fails with their output when one fails, or none runs. */
async function passes(least: number, names: RegExp, ...files: string[]): Promise<void> {
  const args = ["test", "--timeout=300000", "-t", names.source, ...files.map((file) => `${cpu}/${file}`)];
  const { status, stderr } = await runArm64(command, args);
  const passed = Number(/^\s*(\d+) pass$/m.exec(stderr)?.[1]);
  if (status !== 0 || !(passed >= least))
    throw new Error(`${passed} passed on arm64, exit status ${status}:\n${stderr}`);
  expect(stderr).toMatch(/^ 0 fail$/m);
}

describe.skipIf("missing" in emulated)("arm64 under qemu", () => {
  test(
    "the device passes the conformance suite, without the sizes that only show threads",
    () => passes(70, /^neon device (?!.*(enough for every thread|number changes no bit))/, "conformance.test.ts"),
    TIMEOUT_MS,
  );

  test(
    "attention, products with block weights and vector functions against their definitions",
    async () => {
      await passes(5, /^attention on neon/, "kernels/attention.test.ts");
      await passes(10, /^neon (q8_0|q5_0|.*decoded rows|NaN)/, "kernels/quantized.test.ts");
      await passes(2, /on neon NaN/, "kernels/gemm.test.ts", "kernels/gemv.test.ts");
      await passes(3, /on neon/, "kernels/vector-math.test.ts");
    },
    TIMEOUT_MS,
  );

  test(
    "code pages, memory and threads",
    () => passes(8, /(on neon every item|on neon a kernel|native memory|bad arguments|choice of tier)/, "runtime"),
    TIMEOUT_MS,
  );

  test(
    "two training steps give the reference's numbers",
    async () => {
      const { status, stdout, stderr } = await runArm64(command, ["test/support/training-step.ts"]);
      if (status !== 0) throw new Error(`exit status ${status}: ${stderr}`);
      const got = JSON.parse(stdout) as StepNumbers;
      const want = await trainingSteps(await createDevice("reference"));
      expect(got.isa).toBe("neon");
      for (const what of ["losses", "gradNorms"] as const) {
        expect(got[what].length).toBe(2);
        got[what].forEach((value, i) => {
          expect(Math.abs(value / want[what][i] - 1)).toBeLessThan(1e-4);
        });
      }
      expect(got.weights.length).toBe(want.weights.length);
      // AdamW's first steps go by the sign of a gradient, whose size hardly counts: where that is about 0, rounding shows.
      const far = got.weights.filter((value, i) => Math.abs(value - want.weights[i]) > 1e-5);
      expect(far.length).toBeLessThan(want.weights.length / 100);
    },
    TIMEOUT_MS,
  );
});
