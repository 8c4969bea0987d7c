// Two kernels small enough to read as bytes, for the tests of this folder.
import type { KernelIndex, Runtime } from "./index.ts";
import type { Isa } from "./isa.ts";

/** Arguments: the address of i32 words. Adds 1 to words begin … end−1. */
export function incrementKernel(isa: Isa): Uint8Array {
  if (isa === "wasm") {
    // address = args + begin * 4
    const address = [0x20, 0, 0x20, 1, 0x41, 2, 0x74, 0x6a];
    return wasmKernel([
      ...[0x20, 0, 0x28, 2, 0, 0x21, 0], // args = the address
      ...[0x02, 0x40, 0x03, 0x40], // block, loop
      ...[0x20, 1, 0x20, 2, 0x4e, 0x0d, 1], // leave when begin >= end
      ...[...address, ...address, 0x28, 2, 0, 0x41, 1, 0x6a, 0x36, 2, 0], // word += 1
      ...[0x20, 1, 0x41, 1, 0x6a, 0x21, 1, 0x0c, 0, 0x0b, 0x0b], // begin += 1, again
    ]);
  }
  if (isa === "neon") {
    const code = [
      ...[0xf9400000], // ldr x0, [x0]
      ...[0x6b02003f, 0x540000ca], // again: cmp w1, w2; b.ge done
      ...[0xb8615803, 0x11000463, 0xb8215803], // ldr w3, [x0, w1, uxtw #2]; add w3, w3, 1; str w3, [x0, w1, uxtw #2]
      ...[0x11000421, 0x17fffffa, 0xd65f03c0], // add w1, w1, 1; b again; done: ret
    ];
    return new Uint8Array(Uint32Array.from(code).buffer);
  }
  return new Uint8Array([
    ...[0x48, 0x63, 0xf6, 0x48, 0x63, 0xd2], // movsxd rsi, esi; movsxd rdx, edx
    ...[0x48, 0x8b, 0x3f], // mov rdi, [rdi]
    ...[0x48, 0x39, 0xd6, 0x7d, 0x08], // again: cmp rsi, rdx; jge done
    ...[0xff, 0x04, 0xb7, 0x48, 0xff, 0xc6, 0xeb, 0xf3], // inc dword [rdi + 4 rsi]; inc rsi; jmp again
    0xc3, // done: ret
  ]);
}

/** Runs the increment kernel over `items` words at `address`. */
export function increment(runtime: Runtime, kernel: KernelIndex, address: number, items: number, chunk?: number): void {
  runtime.args.setUint32(0, address % 2 ** 32, true);
  runtime.args.setUint32(4, Math.floor(address / 2 ** 32), true);
  runtime.run(kernel, items, chunk);
}

/** Traps for item 0 and busies itself for a while with every other, so that all threads take part (WebAssembly). */
export function trapKernel(): Uint8Array {
  return wasmKernel([
    ...[0x20, 1, 0x45, 0x04, 0x40, 0x00, 0x0b], // if begin == 0: unreachable
    ...[0x41, 0x80, 0x80, 0xc0, 0, 0x21, 0], // args = 1 Mi
    ...[0x03, 0x40, 0x20, 0, 0x41, 1, 0x6b, 0x22, 0, 0x0d, 0, 0x0b], // count down to 0
  ]);
}

/** A module of one kernel with the given body. */
function wasmKernel(code: readonly number[]): Uint8Array {
  const name = (text: string) => [text.length, ...new TextEncoder().encode(text)];
  const section = (id: number, ...bytes: number[]) => [id, bytes.length, ...bytes];
  const body = [0, ...code, 0x0b];
  return new Uint8Array([
    ...[0, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
    ...section(1, 1, 0x60, 3, 0x7f, 0x7f, 0x7f, 0),
    ...section(2, 1, ...name("env"), ...name("memory"), 2, 3, 1, 0x80, 0x80, 4),
    ...section(3, 1, 0),
    ...section(7, 1, ...name("kernel"), 0, 0),
    ...section(10, 1, body.length, ...body),
  ]);
}
