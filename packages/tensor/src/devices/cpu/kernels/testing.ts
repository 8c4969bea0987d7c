/** What the tests of kernels share: compiling one, running it, and buffers that end at an inaccessible page. */
import { CFunction, type Pointer, toArrayBuffer } from "bun:ffi";
import { native } from "#native";
import { emitArm64 } from "../emit/arm64.ts";
import { emitWasm } from "../emit/wasm.ts";
import { emitX64 } from "../emit/x64.ts";
import type { KernelCode } from "../lang/ir.ts";
import {
  type ArgumentTypes,
  type ArgumentValues,
  argumentBlockBytes,
  buildKernel,
  type Kernel,
  writeArguments,
} from "../lang/kernel.ts";
import { AMX, AVX2, AVX512, NEON, type Target, WASM } from "../lang/target.ts";
import { CodeMemory } from "../runtime/code-memory.ts";
import { detectCpu } from "../runtime/cpu-info.ts";
import { missing } from "../runtime/requirements.ts";

export type Run<A extends ArgumentTypes> = (values: ArgumentValues<A>, begin?: number, end?: number) => void;

/** Memory and kernels of one target. */
export interface Machine {
  readonly target: Target;
  /**
   * Zeroed memory. Its end is the end of readable memory, where the target allows that; with `early` its beginning is
   * the beginning.
   */
  allocate(bytes: number, early?: boolean): Memory;
  /** Gives back all memory that was allocated. */
  reset(): void;
  compile<const A extends ArgumentTypes>(kernel: Kernel<A>): Run<A>;
}

export interface Memory {
  readonly address: number;
  readonly bytes: number;
  readonly f32: Float32Array;
  readonly u8: Uint8Array;
  readonly u16: Uint16Array;
  readonly i32: Int32Array;
}

const PAGE = native?.pageBytes ?? 4096;

function memory(buffer: ArrayBuffer | SharedArrayBuffer, offset: number, bytes: number, address: number): Memory {
  return {
    address,
    bytes,
    f32: new Float32Array(buffer as ArrayBuffer, offset, bytes >> 2),
    u8: new Uint8Array(buffer as ArrayBuffer, offset, bytes),
    u16: new Uint16Array(buffer as ArrayBuffer, offset, bytes >> 1),
    i32: new Int32Array(buffer as ArrayBuffer, offset, bytes >> 2),
  };
}

const mapped: { start: number; size: number }[] = [];
const compiledWasm = new Map<unknown, unknown>();

/** Machine code of this computer. */
function machineCode(target: Target, emit: (code: KernelCode) => { code: Uint8Array }): Machine {
  const compiled = new Map<unknown, unknown>();
  return {
    target,
    allocate(bytes, early = false) {
      const size = Math.max(PAGE, Math.ceil(bytes / PAGE) * PAGE);
      const start = native!.map(size);
      mapped.push({ start, size });
      const offset = early ? 0 : size - Math.ceil(bytes / 4) * 4;
      return memory(toArrayBuffer(start as Pointer, 0, size), offset, bytes, start + offset);
    },
    reset() {
      for (const { start, size } of mapped.splice(0)) native!.unmap(start, size);
    },
    compile<const A extends ArgumentTypes>(kernel: Kernel<A>): Run<A> {
      const known = compiled.get(kernel);
      if (known) return known as Run<A>;
      // As in the library of kernels: every processor with the wider vectors has the narrower ones too.
      const narrow = target.lanes > (kernel.maximumLanes ?? target.lanes);
      const { code } = emit(buildKernel(kernel, narrow ? AVX2 : target));
      const address = native!.map(code.length);
      new Uint8Array(toArrayBuffer(address as Pointer, 0, code.length)).set(code);
      if (!native!.makeExecutable(address, code.length)) throw new Error("no executable memory");
      const call = CFunction({ ptr: address as Pointer, args: ["ptr", "i32", "i32"], returns: "void" });
      const block = new Uint8Array(new ArrayBuffer(argumentBlockBytes(kernel)));
      const run: Run<A> = (values, begin = 0, end = 1) => {
        writeArguments(kernel, new DataView(block.buffer), 0, values);
        call(block, begin, end);
      };
      compiled.set(kernel, run);
      return run;
    },
  };
}

export const avx2: Machine = machineCode(AVX2, emitX64);
export const neon: Machine = machineCode(NEON, emitArm64);

/** What the processor at hand has, undefined where machine code cannot run. */
const cpu = native && detectCpu(native, new CodeMemory(native));
/** Undefined where the processor lacks it; then it is emulated (emit/avx512.test.ts). */
export const avx512: Machine | undefined =
  missing("avx512", cpu) === undefined ? machineCode(AVX512, emitX64) : undefined;
/** Undefined where the processor lacks it or the system refuses it; then it is emulated or modelled (emit/amx.test.ts). */
export const amx: Machine | undefined =
  missing("amx", cpu) === undefined && native!.requestTiles() ? machineCode(AMX, emitX64) : undefined;

const WASM_PAGE = 65536;
const wasmMemory = new WebAssembly.Memory({ initial: 1, maximum: 65536, shared: true });
/** The block of arguments lies at 8; blocks of memory follow. */
const WASM_ARGUMENTS = 8;
let wasmTop = WASM_PAGE;

/** WebAssembly: one memory without guards between the blocks. */
export const wasm: Machine = {
  target: WASM,
  allocate(bytes) {
    const address = wasmTop;
    wasmTop += Math.ceil(bytes / 4) * 4;
    const missing = wasmTop - wasmMemory.buffer.byteLength;
    if (missing > 0) wasmMemory.grow(Math.ceil(missing / WASM_PAGE));
    new Uint8Array(wasmMemory.buffer, address, bytes).fill(0);
    return memory(wasmMemory.buffer, address, bytes, address);
  },
  reset() {
    wasmTop = WASM_PAGE;
  },
  compile<const A extends ArgumentTypes>(kernel: Kernel<A>): Run<A> {
    const known = compiledWasm.get(kernel);
    if (known) return known as Run<A>;
    const module = new WebAssembly.Module(emitWasm(buildKernel(kernel, WASM)));
    const { exports } = new WebAssembly.Instance(module, { env: { memory: wasmMemory } });
    const call = exports.kernel as (args: number, begin: number, end: number) => void;
    const run: Run<A> = (values, begin = 0, end = 1) => {
      writeArguments(kernel, new DataView(wasmMemory.buffer), WASM_ARGUMENTS, values);
      call(WASM_ARGUMENTS, begin, end);
    };
    compiledWasm.set(kernel, run);
    return run;
  },
};

/** The targets this computer can run. */
export const machines: readonly Machine[] = [process.arch === "arm64" ? neon : avx2, ...(avx512 ? [avx512] : []), wasm];

/** Numbers in [-1, 1) that are the same in every run. */
export function fill(array: Float32Array, seed: number): Float32Array {
  let state = seed * 2654435761 + 12345;
  for (let i = 0; i < array.length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) | 0;
    array[i] = (state >> 8) / 2 ** 23;
  }
  return array;
}

/** The bf16 numbers nearest to `values`. */
export function toBf16(values: Float32Array): Uint16Array {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  return Uint16Array.from(bits, (word) => (word + 0x7fff + ((word >>> 16) & 1)) >>> 16);
}

export function fromBf16(values: Uint16Array): Float32Array {
  return new Float32Array(Uint32Array.from(values, (half) => half << 16).buffer);
}
