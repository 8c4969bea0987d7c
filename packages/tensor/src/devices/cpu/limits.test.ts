import { afterAll, describe, expect, test } from "bun:test";
import { CpuContext } from "./context.ts";
import { ModelledMachine } from "./emit/modelled-machine.ts";
import { emitters } from "./kernel-library.ts";
import { AMX } from "./lang/target.ts";
import {
  accumulators,
  measureLimits,
  measurePeak,
  multiplyAddKernel,
  multiplyTilesKernel,
  READ_FLOATS,
  readKernel,
  TILE_SUMS_BYTES,
} from "./limits.ts";
import { missing } from "./runtime/requirements.ts";

const probe = new CpuContext({});
const here = emitters.filter((isa) => missing(isa, probe.runtime.cpu) === undefined);
afterAll(() => probe.runtime.dispose());

describe.each(here)("limits on %s", (isa) => {
  test("the kernels do the work that they are counted for", async () => {
    const cpu = new CpuContext({ isa, threads: 2 });
    try {
      cpu.scratch(4 * (2 * READ_FLOATS + 4), (address) => {
        const numbers = cpu.memory.f32(address, 2 * READ_FLOATS + 4);
        numbers.fill(1);
        numbers.set([1, 3]);
        const out = address + 8 * READ_FLOATS;
        cpu.kernels.run(multiplyAddKernel, { rounds: 5, x: address, out }, 3);
        const each = 5 * 4 * accumulators(cpu.kernels.target.vectorRegisters) * 3;
        expect([...numbers.subarray(-4)]).toEqual([each, each, each, 1]);
        cpu.kernels.run(readKernel, { x: address, out }, 2);
        expect([...numbers.subarray(-4)]).toEqual([READ_FLOATS + 2, READ_FLOATS, each, 1]);
      });
    } finally {
      await cpu.runtime.dispose();
    }
  });
});

test("the kernel on tiles does the work that it is counted for", () => {
  const machine = new ModelledMachine(AMX);
  const [x, out] = [machine.allocate(1024), machine.allocate(2 * TILE_SUMS_BYTES)];
  x.u16.fill(0x3f80); // 1
  machine.compile(multiplyTilesKernel)({ rounds: 3, x: x.address, out: out.address }, 0, 2);
  expect(out.f32.every((sum) => sum === 3 * 4 * 32)).toBe(true);
});

test("measures something on every thread count", async () => {
  const limits = await measureLimits({ threads: 1 });
  expect(Object.keys(await measurePeak({ threads: 1 })).toSorted()).toEqual(
    Object.keys(limits)
      .filter((name) => name !== "gbytes")
      .toSorted(),
  );
  expect(limits.threads).toBe(1);
  expect(limits.gflops).toBeGreaterThan(0);
  expect(limits.gbytes).toBeGreaterThan(0);
  expect(Number.isFinite(limits.gflops + limits.gbytes)).toBe(true);
});
