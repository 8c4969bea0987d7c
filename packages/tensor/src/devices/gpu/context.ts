// What the files of this folder need to run kernels: buffers, pipelines, and one stream of recorded work.
import { BYTES } from "../../dtype.ts";
import { DeviceError, DeviceLostError } from "../../errors.ts";
import type { Storage } from "../../memory.ts";
import { sizeOf } from "../../shape.ts";
import type { View } from "../device.ts";
import { type Block, BufferPool, USAGE } from "./buffers.ts";
import type { GpuJs } from "./gpujs.ts";

/** A number for a kernel's parameters: whole numbers are stored as u32 or i32, `{ f32 }` as its bits. */
export type Word = number | { readonly f32: number };

/** Part of a buffer as a kernel sees it: index 0 in the shader is byte `offset` of the buffer. */
export interface Binding {
  readonly buffer: GPUBuffer;
  readonly offset: number;
  readonly size: number;
}

/** A view as a kernel sees it: `first` is the view's first element, in elements of its type from the binding's start. */
export interface Bound {
  readonly binding: Binding;
  readonly first: number;
}

/**
 * Text of a kernel. Entry point `main`; `@group(0) @binding(0) var<uniform>` holds the parameters, bindings 1, 2, … the
 * buffers, one letter each in `access`: `r` for `var<storage, read>`, `w` for `var<storage, read_write>`.
 */
export interface KernelSource {
  readonly code: string;
  readonly access: string;
}

/** A kernel that was made for this device. */
export interface Kernel {
  readonly pipeline: GPUComputePipeline;
  readonly layout: GPUBindGroupLayout;
  readonly access: string;
}

/** Bytes of parameters and small tables that a submission may hold. */
const RING_BYTES = 2 ** 19;
/** Larger tables get a buffer of their own. */
const LARGEST_TABLE = RING_BYTES / 8;
/** Parameters of one kernel, at most. */
const PARAMETER_BYTES = 4096;
/** Work is handed to the GPU after so many kernels, so that it starts while more is recorded. */
const KERNELS_A_SUBMISSION = 128;
/** Uploads are cut into pieces of this size: the driver holds a copy of each until the GPU has taken it. */
const UPLOAD_BYTES = 16 * 2 ** 20;

const words = new Uint32Array(1);
const floats = new Float32Array(words.buffer);

const WRITE = `
@group(0) @binding(0) var<uniform> p: array<vec4<u32>, 1>;
@group(0) @binding(1) var<storage, read_write> to: array<u32>;
@group(0) @binding(2) var<storage, read> content: array<u32>;
@group(0) @binding(3) var<storage, read> mask: array<u32>;
@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) w: vec3u, @builtin(num_workgroups) nw: vec3u, @builtin(local_invocation_index) l: u32) {
  let i = (w.x + w.y * nw.x) * 64u + l;
  if (i >= p[0].x) { return; }
  let at = p[0].y + i;
  to[at] = (to[at] & ~mask[i]) | (content[i] & mask[i]);
}`;

/** What a shader must ask for in its first lines. */
const directives = (code: string): string => (/\bsubgroup[A-Z]/.test(code) ? "enable subgroups;\n" : "");

/** The contexts of a device: an error of work comes with no word of whose it is, so all hear of it. */
const listeners = new WeakMap<GPUDevice, Set<GpuContext>>();

function onError(device: GPUDevice, context: GpuContext): void {
  const known = listeners.get(device);
  if (known) {
    known.add(context);
    return;
  }
  const all = new Set([context]);
  listeners.set(device, all);
  device.onuncapturederror = ({ error: cause }) => {
    const { message } = cause;
    for (const one of all) {
      const isMemory = cause.constructor.name === "GPUOutOfMemoryError";
      const why = `the GPU, ${one.pool.held}, is out of memory (${message}); shorter or fewer rows at a time need less`;
      one.fail(isMemory ? new DeviceLostError("gpu", why) : new DeviceError("gpu", message));
    }
  };
}

/**
 * One stream of work. Kernels are recorded in the order of calls and run in that order, each seeing what those before it
 * wrote; a buffer given back may be given out again at once. Errors of recorded work surface in {@link done} and {@link read}.
 */
export class GpuContext {
  readonly device: GPUDevice;
  readonly limits: GPUSupportedLimits;
  /** So many neighbours in a workgroup exchange values directly, by subgroups: a power of two, 1 without them. */
  subgroup = 1;
  /** gpu.js, which translates kernels. */
  readonly library: GpuJs;
  readonly pool: BufferPool;
  /** Kernels run, submissions and read-backs so far; for tests. */
  readonly counts = { kernels: 0, submissions: 0, reads: 0, compiled: 0 };

  readonly #kernels = new Map<string, Kernel>();
  readonly #layouts = new Map<string, GPUBindGroupLayout>();
  readonly #ring: GPUBuffer;
  readonly #mirror = new Uint32Array(RING_BYTES / 4);
  readonly #align: number;
  #ringUsed = 0;
  #encoder: GPUCommandEncoder | undefined;
  #pass: GPUComputePassEncoder | undefined;
  #recorded = 0;
  /** Buffers that end with the current submission. */
  #passing: GPUBuffer[] = [];
  #failure: DeviceError | undefined;
  #isReleased = false;

  constructor(device: GPUDevice, library: GpuJs) {
    this.device = device;
    this.library = library;
    this.limits = device.limits;
    this.pool = new BufferPool(device);
    this.#align = Math.max(
      16,
      device.limits.minUniformBufferOffsetAlignment,
      device.limits.minStorageBufferOffsetAlignment,
    );
    this.#ring = device.createBuffer({ size: RING_BYTES, usage: USAGE.uniform | USAGE.storage | USAGE.copyDst });
    onError(device, this);
    void device.lost.then(({ message, reason }) => {
      if (!this.#isReleased) this.fail(new DeviceLostError("gpu", `the GPU was lost (${message || reason})`));
    });
  }

  /** Remembers the first error of recorded work, or the loss that is behind it. */
  fail(error: DeviceError): void {
    const isWorse = error instanceof DeviceLostError && !(this.#failure instanceof DeviceLostError);
    if (!this.#failure || isWorse) this.#failure = error;
  }

  allocate(bytes: number): Block {
    return { buffer: this.pool.take(bytes), bytes };
  }

  free(block: Block): void {
    if (block.buffer) this.pool.give(block.buffer);
    block.buffer = undefined;
  }

  /** A kernel, compiled when its key is first seen. */
  kernel(key: string, make: () => KernelSource): Kernel {
    let kernel = this.#kernels.get(key);
    if (!kernel) {
      const { code, access } = make();
      const layout = this.#layout(access);
      const module = this.device.createShaderModule({ label: key, code: directives(code) + code });
      const pipeline = this.device.createComputePipeline({
        label: key,
        layout: this.device.createPipelineLayout({ bindGroupLayouts: [layout] }),
        compute: { module, entryPoint: "main" },
      });
      kernel = { pipeline, layout, access };
      this.#kernels.set(key, kernel);
      this.counts.compiled++;
    }
    return kernel;
  }

  #layout(access: string): GPUBindGroupLayout {
    let layout = this.#layouts.get(access);
    if (!layout) {
      const buffers = [...access].map((letter, i) => ({
        binding: i + 1,
        visibility: 4,
        buffer: { type: letter === "w" ? ("storage" as const) : ("read-only-storage" as const) },
      }));
      layout = this.device.createBindGroupLayout({
        entries: [{ binding: 0, visibility: 4, buffer: { type: "uniform", hasDynamicOffset: true } }, ...buffers],
      });
      this.#layouts.set(access, layout);
    }
    return layout;
  }

  /**
   * Records one run of a kernel.
   *
   * @param params fields of the kernel's uniform, in order, as WGSL lays scalars out
   * @param bindings one for each letter of the kernel's `access`; a buffer that is written is bound once
   * @param groups workgroups; see {@link spread} for more than the limit of one dimension
   */
  run(
    kernel: Kernel,
    params: readonly Word[],
    bindings: readonly Binding[],
    groups: readonly [number, number?, number?],
  ): void {
    const [x, y = 1, z = 1] = groups;
    if (x === 0 || y === 0 || z === 0) return;
    const bytes = Math.max(16, Math.ceil(params.length / 4) * 16);
    const at = this.#claim(bytes);
    for (const [i, word] of params.entries()) {
      if (typeof word === "number") this.#mirror[at / 4 + i] = word;
      else {
        floats[0] = word.f32;
        this.#mirror[at / 4 + i] = words[0];
      }
    }
    const group = this.device.createBindGroup({
      layout: kernel.layout,
      entries: [
        { binding: 0, resource: { buffer: this.#ring, offset: 0, size: bytes } },
        ...bindings.map((resource, i) => ({ binding: i + 1, resource })),
      ],
    });
    this.#encoder ??= this.device.createCommandEncoder();
    this.#pass ??= this.#encoder.beginComputePass();
    this.#pass.setPipeline(kernel.pipeline);
    this.#pass.setBindGroup(0, group, [at]);
    this.#pass.dispatchWorkgroups(x, y, z);
    this.counts.kernels++;
    if (++this.#recorded >= KERNELS_A_SUBMISSION) this.submit();
  }

  /** So many workgroups as x and y: the shader's number is `workgroup_id.x + workgroup_id.y * num_workgroups.x`. */
  spread(groups: number): [number, number] {
    const most = this.limits.maxComputeWorkgroupsPerDimension;
    const y = Math.ceil(groups / most);
    return [y === 0 ? 0 : Math.ceil(groups / y), y];
  }

  /** Tables for the kernel of the next {@link run}, `r` in its access: uploaded with the parameters. */
  tables(...contents: readonly (Uint32Array | Int32Array | Float32Array)[]): Binding[] {
    const small = contents.filter(({ byteLength }) => byteLength <= LARGEST_TABLE);
    // Room for all at once, and the parameters of the run: claiming must not submit in between.
    const bytes = small.reduce((sum, { byteLength }) => sum + byteLength + this.#align, PARAMETER_BYTES);
    if (this.#ringUsed + bytes > RING_BYTES) this.submit();
    return contents.map((content) => this.#table(content));
  }

  #table(content: Uint32Array | Int32Array | Float32Array): Binding {
    const size = Math.max(16, content.byteLength);
    if (content.byteLength > LARGEST_TABLE) {
      const buffer = this.device.createBuffer({ size, usage: USAGE.storage, mappedAtCreation: true });
      new Uint8Array(buffer.getMappedRange()).set(
        new Uint8Array(content.buffer, content.byteOffset, content.byteLength),
      );
      buffer.unmap();
      this.#passing.push(buffer);
      return { buffer, offset: 0, size };
    }
    const at = this.#claim(size);
    new Uint8Array(this.#mirror.buffer, at).set(new Uint8Array(content.buffer, content.byteOffset, content.byteLength));
    return { buffer: this.#ring, offset: at, size };
  }

  /** Room in the ring; submits first where it is full. */
  #claim(bytes: number): number {
    if (this.#ringUsed + bytes > RING_BYTES) this.submit();
    const at = this.#ringUsed;
    this.#ringUsed = Math.ceil((at + bytes) / this.#align) * this.#align;
    return at;
  }

  /** Hands what was recorded to the GPU. */
  submit(): void {
    this.#pass?.end();
    if (this.#encoder) {
      if (this.#ringUsed > 0)
        this.device.queue.writeBuffer(this.#ring, 0, this.#mirror, 0, Math.ceil(this.#ringUsed / 4));
      this.device.queue.submit([this.#encoder.finish()]);
      this.counts.submissions++;
    }
    for (const buffer of this.#passing) buffer.destroy();
    this.#passing = [];
    this.#pass = undefined;
    this.#encoder = undefined;
    this.#ringUsed = 0;
    this.#recorded = 0;
    this.pool.trim();
  }

  /** Copies between buffers, in order with the kernels. Offsets and size are multiples of 4. */
  copy(from: GPUBuffer, fromOffset: number, to: GPUBuffer, toOffset: number, size: number): void {
    this.#pass?.end();
    this.#pass = undefined;
    this.#encoder ??= this.device.createCommandEncoder();
    this.#encoder.copyBufferToBuffer(from, fromOffset, to, toOffset, size);
  }

  /** Copies host bytes into a buffer, after all recorded work. `offset` is a multiple of 4; a ragged end is padded. */
  upload(buffer: GPUBuffer, offset: number, bytes: Uint8Array): void {
    this.submit();
    for (let at = 0; at < bytes.byteLength; at += UPLOAD_BYTES) {
      let piece = bytes.subarray(at, at + UPLOAD_BYTES);
      if (piece.byteLength % 4 !== 0) {
        const padded = new Uint8Array(Math.ceil(piece.byteLength / 4) * 4);
        padded.set(piece);
        piece = padded;
      }
      this.device.queue.writeBuffer(buffer, offset + at, piece as Uint8Array<ArrayBuffer>);
      // Lets the driver give back the copies of pieces that the GPU has taken.
      this.device.queue.submit([]);
    }
  }

  /** Copies host bytes into a block, in order with the kernels; neither place nor length need be aligned. */
  write(block: Block, byteOffset: number, bytes: Uint8Array): void {
    const buffer = this.bufferOf(block, "write");
    const end = byteOffset + bytes.byteLength;
    if (!(byteOffset >= 0 && end <= block.bytes)) {
      throw new DeviceError("write", `bytes ${byteOffset} to ${end} leave a storage of ${block.bytes} bytes`);
    }
    if (byteOffset % 4 === 0 && (bytes.byteLength % 4 === 0 || end === block.bytes)) {
      this.upload(buffer, byteOffset, bytes);
      return;
    }
    // Words at the ends hold bytes of others: those are kept.
    const first = Math.floor(byteOffset / 4) * 4;
    const words = new Uint32Array(Math.ceil((end - first) / 4));
    const masks = new Uint32Array(words.length);
    new Uint8Array(words.buffer).set(bytes, byteOffset - first);
    new Uint8Array(masks.buffer).fill(0xff, byteOffset - first, end - first);
    const kernel = this.kernel("write", () => ({ code: WRITE, access: "wrr" }));
    const whole = { buffer, offset: 0, size: Math.min(buffer.size, this.limits.maxStorageBufferBindingSize) };
    const [content, mask] = this.tables(words, masks);
    this.run(kernel, [words.length, first / 4], [whole, content, mask], this.spread(Math.ceil(words.length / 64)));
  }

  /** Waits for all recorded work and copies bytes out. Offset and length need not be aligned. */
  async read(block: Block, byteOffset: number, byteLength: number): Promise<Uint8Array> {
    this.counts.reads++;
    if (byteLength === 0) {
      await this.done();
      return new Uint8Array(0);
    }
    const first = Math.floor(byteOffset / 4) * 4;
    const size = Math.ceil((byteOffset + byteLength - first) / 4) * 4;
    const staging = this.device.createBuffer({ size, usage: USAGE.mapRead | USAGE.copyDst });
    try {
      this.copy(this.bufferOf(block, "read"), first, staging, 0, size);
      this.submit();
      await staging.mapAsync(1, 0, size).catch(async (cause: Error) => {
        // The error that is behind it may be told a moment later.
        await new Promise((resolve) => setTimeout(resolve));
        this.fail(new DeviceLostError("gpu", `the GPU was lost (${cause.message || cause.name})`, { cause }));
      });
      this.check();
      return new Uint8Array(staging.getMappedRange(0, size)).slice(byteOffset - first, byteOffset - first + byteLength);
    } finally {
      staging.destroy();
    }
  }

  /** Waits for all recorded work. @throws DeviceError the first error among it */
  async done(): Promise<void> {
    this.submit();
    await this.device.queue.onSubmittedWorkDone();
    this.check();
  }

  /** @throws DeviceError the first error of what was recorded so far */
  check(): void {
    const failure = this.#failure;
    // A GPU that is gone stays gone; a call that failed has been told of.
    if (!(failure instanceof DeviceLostError)) this.#failure = undefined;
    if (failure) throw failure;
  }

  /** @throws DeviceError when the memory was freed */
  bufferOf(block: Block, op: string): GPUBuffer {
    if (!block.buffer) throw new DeviceError(op, "a tensor was used after its memory was freed");
    return block.buffer;
  }

  blockOf(storage: Storage): Block {
    return storage.handle as Block;
  }

  /** Whether one binding can hold the view. */
  fits(view: View): boolean {
    const { offset, size } = this.#range(view);
    return size + (offset % this.#align) <= this.limits.maxStorageBufferBindingSize;
  }

  /** Bytes of the storage from the view's first to its last element. */
  #range(view: View): { offset: number; size: number } {
    let [low, high] = [view.offset, view.offset + 1];
    for (const [d, n] of view.shape.entries()) {
      const reach = (n - 1) * view.strides[d];
      if (n === 0) return { offset: 0, size: 4 };
      if (reach < 0) low += reach;
      else high += reach;
    }
    const bytes = BYTES[view.dtype];
    const offset = Math.floor((low * bytes) / 4) * 4;
    return { offset, size: Math.ceil(high * bytes) - offset };
  }

  /**
   * The view as a kernel sees it: the whole buffer where a binding can hold that, otherwise a window around the view.
   * @throws DeviceError unless the view lies in its living storage and a window can hold it (cut it into rows: {@link rowWindows})
   */
  bind(view: View, op: string): Bound {
    const block = this.blockOf(view.storage);
    const buffer = this.bufferOf(block, op);
    const { offset, size } = this.#range(view);
    if (offset < 0 || offset + size > Math.max(4, Math.ceil(block.bytes / 4) * 4)) {
      throw new DeviceError(
        op,
        `a view of shape [${view.shape}] at element ${view.offset} leaves its storage of ${block.bytes} bytes`,
      );
    }
    const most = this.limits.maxStorageBufferBindingSize;
    if (buffer.size <= most) return { binding: { buffer, offset: 0, size: buffer.size }, first: view.offset };
    const start = Math.floor(offset / this.#align) * this.#align;
    const length = Math.ceil((offset + size - start) / 4) * 4;
    if (length > most) {
      throw new DeviceError(
        op,
        `a view of shape [${view.shape}] needs ${length} bytes; one binding of the GPU holds ${most}`,
      );
    }
    return { binding: { buffer, offset: start, size: length }, first: view.offset - start / BYTES[view.dtype] };
  }

  /** Exactly the elements of a dense view, index 0 its first; undefined where a binding cannot begin there. */
  window(view: View, op: string): Binding | undefined {
    const { binding } = this.bind(view, op);
    const bytes = BYTES[view.dtype];
    const offset = view.offset * bytes;
    if (offset % this.#align !== 0) return undefined;
    return { buffer: binding.buffer, offset, size: Math.max(4, Math.ceil((sizeOf(view.shape) * bytes) / 4) * 4) };
  }

  /** The view in pieces of whole rows (its first dimension), each of which one binding can hold. */
  rowWindows(view: View): { readonly row: number; readonly view: View }[] {
    const [rows] = view.shape;
    if (rows === 0 || this.fits(view)) return [{ row: 0, view }];
    const rowBytes = Math.abs(view.strides[0]) * BYTES[view.dtype];
    const count = Math.max(1, Math.floor((this.limits.maxStorageBufferBindingSize - 2 * this.#align) / rowBytes) - 1);
    const windows: { row: number; view: View }[] = [];
    for (let row = 0; row < rows; row += count) {
      const shape = [Math.min(count, rows - row), ...view.shape.slice(1)];
      windows.push({ row, view: { ...view, offset: view.offset + row * view.strides[0], shape } });
    }
    return windows;
  }

  /** Gives all buffers back to the device, which others may still use. */
  release(): void {
    this.#isReleased = true;
    listeners.get(this.device)?.delete(this);
    this.submit();
    this.pool.trim(0);
    this.#ring.destroy();
  }
}
