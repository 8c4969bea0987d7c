// What the processor and the memory give at most, measured with this tier's own instructions: what kernels are held against.
import { CpuContext } from "./context.ts";
import type { CpuDeviceOptions } from "./device.ts";
import { defineKernel } from "./lang/kernel.ts";
import { beginTiles, endTiles, loadTile, multiplyTiles, storeTile, zeroTile } from "./lang/tiles.ts";
import type { VF } from "./lang/values.ts";

/** The most that all threads together reach. */
export interface CpuLimits {
  readonly isa: string;
  readonly threads: number;
  /**
   * f32 multiply-adds in registers, 10⁹ operations (two each) a second. With matrix tiles (AMX): of f32 with bf16 numbers, each of
   * which takes as many multiply-adds of bf16 as the precision has terms (two).
   */
  readonly gflops: number;
  /** The same of f32 with f32 numbers: with two terms these take three multiply-adds of bf16 on tiles. */
  readonly gflopsF32: number;
  /** What `gflops` counts, for people. */
  readonly counted: string;
  /** Memory read in order, 10⁹ bytes a second. */
  readonly gbytes: number;
}

/** Multiply-adds of one turn of the loop, for each accumulator. */
const UNROLL = 4;

/**
 * Each item runs `rounds` turns of sum·x[0] + x[1] on as many independent sums as the registers hold; their total goes to
 * out[item]. No product is the same twice, or compilers of WebAssembly would make it once.
 */
export const multiplyAddKernel = defineKernel(
  "limitMultiplyAdd",
  { rounds: "index", x: "f32*", out: "f32*" },
  (k, args) => {
    k.loop({ from: k.begin, to: k.end }, (item) => {
      const factor = args.x.broadcast();
      const addend = args.x.at(1).broadcast();
      const sums = Array.from({ length: accumulators(k.target.vectorRegisters) }, () => k.variable(k.zero()));
      k.repeat(args.rounds, () => {
        for (let i = 0; i < UNROLL; i++) for (const sum of sums) sum.set(sum.fma(factor, addend));
      });
      args.out.at(item).store(sums.reduce((a: VF, b) => a.add(b)).first());
    });
  },
);

/** Two registers hold the factors, two stay free. */
export function accumulators(registers: number): number {
  return registers - 4;
}

/** Bytes of four tiles. */
export const TILE_SUMS_BYTES = 4096;
/** Multiply-adds of one pair of tiles. */
const TILE_OPERATIONS = 16 * 16 * 32;

/** Each item multiplies the tile x of bf16 numbers with itself, into four independent sums, which go to out[item]. */
export const multiplyTilesKernel = defineKernel(
  "limitMultiplyTiles",
  { rounds: "index", x: "u16*", out: "f32*" },
  (k, args) => {
    const row = k.index(64);
    beginTiles(k);
    k.loop({ from: k.begin, to: k.end }, (item) => {
      for (let tile = 4; tile < 8; tile++) loadTile(k, tile, args.x, row);
      for (let sum = 0; sum < 4; sum++) zeroTile(k, sum);
      k.repeat(args.rounds, () => {
        for (let i = 0; i < UNROLL; i++)
          for (let sum = 0; sum < 4; sum++) multiplyTiles(k, sum, 4 + (sum >> 1), 6 + (sum & 1));
      });
      const to = args.out.atByte(item.mul(TILE_SUMS_BYTES)).fixed();
      for (let sum = 0; sum < 4; sum++) storeTile(k, sum, to.atByte(sum * 1024), row);
    });
    endTiles(k);
  },
);

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
    const { gflops, gflopsF32, counted } = peakOf(cpu);
    const bytes = 4 * READ_ITEMS * READ_FLOATS;
    const gbytes = cpu.scratch(bytes + 4 * READ_ITEMS, (address) => {
      // Pages that were never written are all the same one.
      cpu.memory.f32(address, bytes / 4).fill(1);
      return bytes / best(() => kernels.run(readKernel, { x: address, out: address + bytes }, READ_ITEMS, 16));
    });
    return { isa: runtime.isa, threads, gflops, gflopsF32, counted, gbytes };
  } finally {
    await cpu.runtime.dispose();
  }
}

/** What the processor computes at most. */
export type CpuPeak = Omit<CpuLimits, "gbytes">;

/** Measures the processor alone, in some hundredths of a second: its clock changes, so a figure wants the peak of its moment. */
export async function measurePeak(options: CpuDeviceOptions = {}): Promise<CpuPeak> {
  const cpu = new CpuContext(options);
  try {
    return { isa: cpu.runtime.isa, threads: cpu.threads, ...peakOf(cpu) };
  } finally {
    await cpu.runtime.dispose();
  }
}

type Peak = Pick<CpuLimits, "gflops" | "gflopsF32" | "counted">;

function peakOf(cpu: CpuContext): Peak {
  const { kernels, terms } = cpu;
  if (!kernels.target.tiles) {
    const gflops = vectorPeak(cpu);
    return { gflops, gflopsF32: gflops, counted: "multiply-adds of f32 in registers" };
  }
  const tiles = tilePeak(cpu);
  // hi·hi + hi·lo + lo·hi; with three terms products of f32 with f32 are not made on tiles.
  const gflopsF32 = terms === 3 ? vectorPeak(cpu) : tiles / (terms === 1 ? 1 : 3);
  const counted = `products of f32 in ${terms} bf16 term${terms === 1 ? "" : "s"} with bf16, on tiles`;
  return { gflops: tiles / terms, gflopsF32, counted };
}

function vectorPeak(cpu: CpuContext): number {
  const items = 8 * cpu.threads;
  const { vectorRegisters, lanes } = cpu.kernels.target;
  const operations = 2 * items * ROUNDS * UNROLL * accumulators(vectorRegisters) * lanes;
  return cpu.scratch(8 + 4 * items, (x) => {
    cpu.memory.f32(x, 2).set([0.5, 1e-6]);
    return operations / best(() => cpu.kernels.run(multiplyAddKernel, { rounds: ROUNDS, x, out: x + 8 }, items));
  });
}

function tilePeak(cpu: CpuContext): number {
  const items = 8 * cpu.threads;
  const operations = 2 * items * ROUNDS * UNROLL * 4 * TILE_OPERATIONS;
  return cpu.scratch(1024 + items * TILE_SUMS_BYTES, (x) => {
    cpu.memory.f32(x, 256).fill(0.5);
    return operations / best(() => cpu.kernels.run(multiplyTilesKernel, { rounds: ROUNDS, x, out: x + 1024 }, items));
  });
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
