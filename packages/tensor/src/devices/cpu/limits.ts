// What the processor and the memory give at most, measured with this tier's own instructions: what kernels are held against.
import { CpuContext } from "./context.ts";
import type { CpuDeviceOptions } from "./device.ts";
import { defineKernel } from "./lang/kernel.ts";
import type { VF } from "./lang/values.ts";

/** The most that all threads together reach. */
export interface CpuLimits {
  readonly isa: string;
  readonly threads: number;
  /** f32 multiply-adds in registers, 10⁹ operations (two each) a second. */
  readonly gflops: number;
  /** Memory read in order, 10⁹ bytes a second. */
  readonly gbytes: number;
}

/** Multiply-adds of one turn of the loop, for each accumulator. */
const UNROLL = 4;

/** Each item runs `rounds` turns on as many independent sums as the registers hold; their total goes to out[item]. */
export const multiplyAddKernel = defineKernel(
  "limitMultiplyAdd",
  { rounds: "index", x: "f32*", out: "f32*" },
  (k, args) => {
    k.loop({ from: k.begin, to: k.end }, (item) => {
      const factor = args.x.broadcast();
      const addend = args.x.at(1).broadcast();
      const sums = Array.from({ length: accumulators(k.target.vectorRegisters) }, () => k.variable(k.zero()));
      k.repeat(args.rounds, () => {
        for (let i = 0; i < UNROLL; i++) for (const sum of sums) sum.addProduct(factor, addend);
      });
      args.out.at(item).store(sums.reduce((a: VF, b) => a.add(b)).first());
    });
  },
);

/** Two registers hold the factors, two stay free. */
export function accumulators(registers: number): number {
  return registers - 4;
}

/** f32 numbers that an item of {@link readKernel} reads. */
export const READ_FLOATS = 16_384;
const STREAMS = 8;

/** out[item] = Σ of the item's numbers. */
export const readKernel = defineKernel("limitRead", { x: "f32*", out: "f32*" }, (k, args) => {
  k.loop({ from: k.begin, to: k.end }, (item) => {
    const x = k.variable(args.x.at(item.mul(READ_FLOATS)));
    const sums = Array.from({ length: STREAMS }, () => k.variable(k.zero()));
    k.repeat(k.index(READ_FLOATS / (STREAMS * k.lanes)), () => {
      sums.forEach((sum, i) => {
        sum.set(sum.add(x.at(i * k.lanes).load()));
      });
      x.advance(STREAMS * k.lanes);
    });
    args.out.at(item).store(sums.reduce((a: VF, b) => a.add(b)).sum());
  });
});

const ROUNDS = 20_000;
/** More than any cache holds. */
const READ_ITEMS = 8192;
const REPEATS = 5;

/** Measures the machine for about a second; nothing else should run meanwhile. */
export async function measureLimits(options: CpuDeviceOptions = {}): Promise<CpuLimits> {
  const cpu = new CpuContext(options);
  try {
    const { kernels, threads, runtime } = cpu;
    const items = 8 * threads;
    const operations =
      2 * items * ROUNDS * UNROLL * accumulators(kernels.target.vectorRegisters) * kernels.target.lanes;
    const gflops = cpu.scratch(8 + 4 * items, (address) => {
      cpu.memory.f32(address, 2).set([0.5, 1e-6]);
      return (
        operations / best(() => kernels.run(multiplyAddKernel, { rounds: ROUNDS, x: address, out: address + 8 }, items))
      );
    });
    const bytes = 4 * READ_ITEMS * READ_FLOATS;
    const gbytes = cpu.scratch(bytes + 4 * READ_ITEMS, (address) => {
      // Pages that were never written are all the same one.
      cpu.memory.f32(address, bytes / 4).fill(1);
      return bytes / best(() => kernels.run(readKernel, { x: address, out: address + bytes }, READ_ITEMS, 16));
    });
    return { isa: runtime.isa, threads, gflops, gbytes };
  } finally {
    await cpu.runtime.dispose();
  }
}

/** Nanoseconds of the fastest of some runs, so that a quotient is 10⁹ a second. */
function best(run: () => void): number {
  let least = Number.POSITIVE_INFINITY;
  for (let i = 0; i < REPEATS; i++) {
    const started = performance.now();
    run();
    least = Math.min(least, performance.now() - started);
  }
  return least * 1e6;
}
