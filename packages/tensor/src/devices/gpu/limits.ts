// What a GPU gives at most, for benchmarks: multiply-adds in registers, and reading in order.
import type { GpuContext } from "./context.ts";
import { repeat } from "./wgsl/source.ts";

/** What the adapter gives at most. */
export interface GpuLimits {
  /** 10⁹ operations of f32 a second, two a multiply-add. */
  readonly gflops: number;
  /** 10⁹ bytes a second read in order from one buffer. */
  readonly gbytes: number;
}

const LANES = 64;
const GROUPS = 1024;
/** Independent sums of an invocation, four numbers each: what a processor's vectors hold as well, behind a software driver. */
const CHAINS = 2;
/** Multiply-adds of each in the loop's body, so that counting does not show. */
const UNROLLED = 16;
const READ_BYTES = 2 ** 26;
/** A measurement is repeated with more work until it takes so long, so that handing it over does not count. */
const LONG_SECONDS = 0.05;

const multiplyAdds = (): string => `
@group(0) @binding(0) var<uniform> p: vec4<u32>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@compute @workgroup_size(${LANES})
fn main(@builtin(global_invocation_id) id: vec3u) {
  let factor = vec4f(f32(id.x % 7u) * 0.125);
  ${repeat(CHAINS, (i) => `var x${i} = vec4f(${i}.0);`)}
  for (var i = 0u; i < p.x; i++) {
    ${repeat(UNROLLED, () => repeat(CHAINS, (i) => `x${i} = fma(x${i}, factor, vec4f(1.0));`))}
  }
  out[id.x] = dot(${Array.from({ length: CHAINS }, (_, i) => `x${i}`).join(" + ")}, vec4f(1.0));
}`;

const reading = (): string => `
@group(0) @binding(0) var<uniform> p: vec4<u32>;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
@compute @workgroup_size(${LANES})
fn main(@builtin(global_invocation_id) id: vec3u) {
  var sum = vec4f(0);
  for (var round = 0u; round < p.x; round++) {
    for (var i = id.x; i < p.y; i += ${LANES * GROUPS}u) { sum += x[i]; }
  }
  out[id.x] = dot(sum, vec4f(1.0));
}`;

/** The best rate of some runs, with as many rounds in each as make it long enough to be measured. */
async function rate(context: GpuContext, work: number, run: (rounds: number) => void): Promise<number> {
  run(1);
  await context.done();
  let best = 0;
  for (let rounds = 1, long = 0; long < 3; ) {
    const started = performance.now();
    run(rounds);
    await context.done();
    const seconds = (performance.now() - started) / 1000;
    best = Math.max(best, (rounds * work) / seconds);
    if (seconds >= LONG_SECONDS) long++;
    else rounds *= 2;
  }
  return best / 1e9;
}

export async function measureGpuLimits(context: GpuContext): Promise<GpuLimits> {
  const [out, x] = [context.allocate(4 * LANES * GROUPS), context.allocate(READ_BYTES)];
  const whole = ({ buffer }: typeof out) => ({ buffer: buffer!, offset: 0, size: buffer!.size });
  const steps = 16;
  try {
    const add = context.kernel("limits multiply-adds", () => ({ code: multiplyAdds(), access: "w" }));
    const read = context.kernel("limits reading", () => ({ code: reading(), access: "rw" }));
    const operations = 2 * 4 * CHAINS * UNROLLED * steps * LANES * GROUPS;
    const gflops = await rate(context, operations, (n) => context.run(add, [n * steps], [whole(out)], [GROUPS]));
    const words = [READ_BYTES / 16];
    const gbytes = await rate(context, READ_BYTES, (n) =>
      context.run(read, [n, ...words], [whole(x), whole(out)], [GROUPS]),
    );
    return { gflops, gbytes };
  } finally {
    context.free(out);
    context.free(x);
  }
}
