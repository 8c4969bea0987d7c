// Where the GPU comes from: gpu.js' own context, asked for all that the adapter can do, and not trusted before it multiplied.
import { provideWebGpu } from "#webgpu";
import { DeviceError, DeviceLostError } from "../../errors.ts";
import { isSoftware } from "../adapter.ts";
import { GpuContext } from "./context.ts";
import type { GpuJs } from "./gpujs.ts";

/** What a GPU says of itself. */
export interface AdapterInfo {
  readonly vendor: string;
  readonly architecture: string;
  readonly description: string;
  /** Computes on the processor: a software driver. */
  readonly software: boolean;
  /** Who gives WebGPU: `browser`, or `Dawn` where it comes from the package. */
  readonly provider: string;
  readonly features: readonly string[];
  readonly limits: { readonly [name: string]: number };
}

/** A GPU in use. */
export interface Gpu {
  readonly context: GpuContext;
  readonly info: AdapterInfo;
}

/** Limits that kernels profit from, where the adapter has more than WebGPU's minimum. */
const WANTED_LIMITS = [
  "maxStorageBufferBindingSize",
  "maxBufferSize",
  "maxStorageBuffersPerShaderStage",
  "maxComputeWorkgroupStorageSize",
  "maxComputeInvocationsPerWorkgroup",
  "maxComputeWorkgroupSizeX",
  "maxComputeWorkgroupSizeY",
  "maxComputeWorkgroupsPerDimension",
] as const;
const WANTED_FEATURES = ["shader-f16", "subgroups"] as const;

async function loadGpuJs(): Promise<GpuJs> {
  try {
    const module = await import("gpu.js");
    return ((module as { default?: unknown }).default ?? module) as GpuJs;
  } catch (cause) {
    throw new DeviceError("gpu", "needs the package gpu.js, which is not installed: npm install gpu.js", { cause });
  }
}

/** Has gpu.js make its context with more limits and features than it asks for by itself. */
async function acquire(library: GpuJs): Promise<{ adapter: GPUAdapter; device: GPUDevice }> {
  const { gpu } = globalThis.navigator;
  const request = gpu.requestAdapter;
  const asking = async (options?: GPURequestAdapterOptions): Promise<GPUAdapter | null> => {
    const adapter = await request.call(gpu, { powerPreference: "high-performance", ...options });
    if (!adapter) return null;
    const requestDevice = adapter.requestDevice;
    adapter.requestDevice = (descriptor?: GPUDeviceDescriptor) => {
      const limits = Object.fromEntries(WANTED_LIMITS.map((name) => [name, adapter.limits[name]]));
      const features = WANTED_FEATURES.filter((name) => adapter.features.has(name));
      return requestDevice.call(adapter, {
        ...descriptor,
        requiredLimits: { ...descriptor?.requiredLimits, ...limits },
        requiredFeatures: features,
      });
    };
    return adapter;
  };
  Object.defineProperty(gpu, "requestAdapter", { value: asking, configurable: true, writable: true });
  try {
    return await library.WebGPUContext.acquire();
  } catch (cause) {
    throw new DeviceError("gpu", `no GPU to be had: ${(cause as Error).message}`, { cause });
  } finally {
    delete (gpu as { requestAdapter?: unknown }).requestAdapter;
  }
}

function describe(adapter: GPUAdapter, device: GPUDevice, provider: string): AdapterInfo {
  const { vendor, architecture, description } = adapter.info;
  const software = isSoftware(adapter.info);
  const limits = Object.fromEntries(WANTED_LIMITS.map((name) => [name, device.limits[name]]));
  return { vendor, architecture, description, software, provider, features: [...device.features].sort(), limits };
}

const PRODUCT = `
@group(0) @binding(0) var<uniform> p: array<vec4<u32>, 1>;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read_write> c: array<f32>;
@compute @workgroup_size(8, 8)
fn main(@builtin(global_invocation_id) g: vec3u) {
  let n = p[0].x;
  if (g.x >= n || g.y >= n) { return; }
  var sum = 0.0;
  for (var k = 0u; k < n; k++) { sum = fma(a[g.y * n + k], a[k * n + g.x], sum); }
  c[g.y * n + g.x] = sum;
}`;

/**
 * Multiplies a small matrix with itself and compares: Dawn without a driver gives a device that computes nothing.
 * @throws DeviceError where the product is wrong
 */
export async function verify(context: GpuContext, name: string): Promise<void> {
  const n = 23;
  const a = Float32Array.from({ length: n * n }, (_, i) => ((i * 7919) % 31) - 15);
  const [from, to] = [context.allocate(a.byteLength), context.allocate(a.byteLength)];
  try {
    context.upload(from.buffer!, 0, new Uint8Array(a.buffer));
    const kernel = context.kernel("verify", () => ({ code: PRODUCT, access: "rw" }));
    const whole = ({ buffer }: typeof from) => ({ buffer: buffer!, offset: 0, size: buffer!.size });
    context.run(kernel, [n], [whole(from), whole(to)], [3, 3]);
    const bytes = await context.read(to, 0, a.byteLength);
    const c = new Float32Array(bytes.buffer, bytes.byteOffset, n * n);
    for (let i = 0; i < n * n; i++) {
      let sum = 0;
      for (let k = 0; k < n; k++) sum += a[Math.floor(i / n) * n + k] * a[k * n + (i % n)];
      // Whole numbers: exact in any order.
      if (c[i] !== sum) {
        throw new DeviceError(
          "gpu",
          `the adapter "${name}" multiplies wrongly (${c[i]} for ${sum}): it is refused. Without a GPU driver there is only a pretended one; on Debian install mesa-vulkan-drivers from backports, or use --device cpu`,
        );
      }
    }
  } finally {
    context.free(from);
    context.free(to);
    context.counts.reads = 0;
  }
}

const EXCHANGE = `
@group(0) @binding(1) var<storage, read_write> found: array<u32>;
@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) l: u32) {
MASKS}`;

/**
 * Of how many neighbours in a workgroup values can be exchanged by subgroups. WGSL leaves open which invocations make one, so
 * it is tried: neighbours by number are what kernels count on.
 */
export async function neighbours(context: GpuContext, least: number): Promise<number> {
  const masks = [1, 2, 4, 8, 16, 32].filter((mask) => mask < least);
  if (masks.length === 0) return 1;
  const to = context.allocate(4 * 64 * masks.length);
  try {
    const kernel = context.kernel("neighbours", () => ({
      code: EXCHANGE.replace(
        "MASKS",
        masks.map((mask, i) => `  found[${64 * i}u + l] = subgroupShuffleXor(l, ${mask}u);\n`).join(""),
      ),
      access: "w",
    }));
    context.run(kernel, [0], [{ buffer: to.buffer!, offset: 0, size: to.buffer!.size }], [1]);
    const bytes = await context.read(to, 0, to.bytes);
    const got = new Uint32Array(bytes.buffer, bytes.byteOffset, 64 * masks.length);
    const wrong = masks.findIndex((mask, i) => [...got.subarray(64 * i, 64 * i + 64)].some((o, l) => o !== (l ^ mask)));
    return wrong < 0 ? 2 * masks.at(-1)! : 2 ** wrong;
  } catch (error) {
    // A driver that names the feature and does not compile it: done without.
    if (!(error instanceof DeviceError) || error instanceof DeviceLostError) throw error;
    return 1;
  } finally {
    context.free(to);
    context.counts.reads = 0;
  }
}

/** gpu.js has one device for all, so contexts on it are counted, and the last one ends it. */
const users = new Map<GPUDevice, number>();

/**
 * @param subgroups use them where the adapter has them
 * @throws DeviceError without gpu.js, WebGPU or an adapter that can be trusted
 */
export async function openGpu(subgroups = true): Promise<Gpu> {
  const native = globalThis.navigator?.gpu !== undefined && typeof document !== "undefined";
  await provideWebGpu();
  const library = await loadGpuJs();
  if (!globalThis.navigator?.gpu) {
    throw new DeviceError("gpu", "this browser has no WebGPU (navigator.gpu): use another one, or the device cpu");
  }
  const { adapter, device } = await acquire(library);
  users.set(device, (users.get(device) ?? 0) + 1);
  const info = describe(adapter, device, native ? "browser" : "Dawn");
  const context = new GpuContext(device, library);
  try {
    await verify(context, info.description || info.vendor);
    if (subgroups && device.features.has("subgroups")) {
      context.subgroup = await neighbours(context, adapter.info.subgroupMinSize);
    }
  } catch (error) {
    closeGpu(context);
    throw error;
  }
  return { context, info };
}

/** Ends the context, and the device with its last one. */
export function closeGpu(context: GpuContext): void {
  const { device } = context;
  const left = (users.get(device) ?? 1) - 1;
  context.release();
  if (left > 0) users.set(device, left);
  else {
    users.delete(device);
    device.destroy();
  }
}
