/**
 * Processors that this one is not, under qemu. NEON on arm64: Bun for arm64 runs parts of the packages' own tests and
 * two steps of training, some two minutes; what is left out (large sizes, child processes) runs on arm64 itself. And
 * x86-64 with and without AVX2: the tier follows the processor, not what /proc/cpuinfo still says of the host.
 */
import { describe, expect, test } from "bun:test";
import { createDevice } from "../packages/tensor/src/index.ts";
import { type Emulated, findArm64, findX64, runEmulated } from "./support/qemu.ts";
import { type StepNumbers, trainingSteps } from "./support/training-step.ts";

const TIMEOUT_MS = 900_000;
const cpu = "./packages/tensor/src/devices/cpu";

function isMissing(what: string, emulated: Emulated): boolean {
  if ("missing" in emulated) console.warn(`SKIPPED: tests on ${what}, because ${emulated.missing}`);
  return "missing" in emulated;
}

let reference: Promise<StepNumbers> | undefined;

/** Two training steps on the emulated processor take the tier they should and give the reference's numbers. */
async function trains(emulated: Emulated, isa: string): Promise<void> {
  const { status, stdout, stderr } = await runEmulated(emulated, ["test/support/training-step.ts"]);
  if (status !== 0) throw new Error(`exit status ${status}: ${stderr}`);
  const got = JSON.parse(stdout) as StepNumbers;
  reference ??= createDevice("reference").then(trainingSteps);
  const want = await reference;
  expect(got.isa).toBe(isa);
  const near = (a: readonly number[], b: readonly number[], bound: number): void => {
    expect(a.length).toBe(b.length);
    expect(Math.max(...a.map((value, i) => Math.abs(value - b[i])))).toBeLessThan(bound);
  };
  expect(got.losses.length).toBe(2);
  near(got.losses, want.losses, 1e-5);
  near(got.gradNorms, want.gradNorms, 1e-5);
  near(got.weights, want.weights, 1e-5);
}

const arm64 = await findArm64();

describe.skipIf(isMissing("arm64", arm64))("arm64", () => {
  /** Runs the tests of some files whose names match; fails with their output when one fails, or too few are there. */
  async function passes(least: number, names: RegExp, ...files: string[]): Promise<void> {
    const args = ["test", "--timeout=300000", "-t", names.source, ...files.map((file) => `${cpu}/${file}`)];
    const { status, stderr } = await runEmulated(arm64, args);
    const passed = Number(/^\s*(\d+) pass$/m.exec(stderr)?.[1]);
    if (status !== 0 || !(passed >= least)) {
      throw new Error(`${passed} passed on arm64 (at least ${least} expected), exit status ${status}:\n${stderr}`);
    }
    expect(stderr).toMatch(/^ 0 fail$/m);
  }

  test(
    "the device passes the conformance suite, without the sizes that only show threads",
    () => passes(70, /^neon device (?!.*(enough for every thread|number changes no bit))/, "conformance.test.ts"),
    TIMEOUT_MS,
  );

  test(
    "random programs, attention, products with block weights and vector functions against their definitions",
    async () => {
      await passes(2, /^neon (random programs|integers)/, "emit/emit.test.ts");
      await passes(3, /^attention on neon (sequences|a row|large)/, "kernels/attention.test.ts");
      await passes(10, /^neon (q5_0|.*decoded rows|NaN)/, "kernels/quantized.test.ts");
      // Here with the processor's own products of bytes, there without.
      await passes(3, /^neon (q8_0|q4_k|the loss)/, "quantized.test.ts");
      await passes(2, /on neon NaN/, "kernels/gemm.test.ts", "kernels/gemv.test.ts");
      await passes(13, /on neon/, "kernels/vector-math.test.ts");
    },
    TIMEOUT_MS,
  );

  test(
    "code pages, memory and threads",
    () => passes(8, /(on neon every item|on neon a kernel|native memory|bad arguments|choice of tier)/, "runtime"),
    TIMEOUT_MS,
  );

  test("two training steps give the reference's numbers", () => trains(arm64, "neon"), TIMEOUT_MS);
});

describe.each([
  ["max", "avx2"],
  ["SandyBridge", "wasm"],
])("x86-64, qemu's %s", (name, isa) => {
  const emulated = findX64(name);
  test.skipIf(isMissing(`x86-64 (${name})`, emulated))(
    `two training steps on ${isa} give the reference's numbers`,
    () => trains(emulated, isa),
    TIMEOUT_MS,
  );
});
