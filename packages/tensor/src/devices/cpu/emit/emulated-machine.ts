/** A machine for the tests of kernels whose processor is emulated. */
import type { Machine, Memory, Run } from "../kernels/testing.ts";
import { type ArgumentTypes, argumentBlockBytes, buildKernel, type Kernel, writeArguments } from "../lang/kernel.ts";
import type { Target } from "../lang/target.ts";
import { EMULATED_BASE, EMULATED_BYTES, type EmulatedCall, emulate } from "./bochs.ts";
import { emitX64 } from "./x64.ts";

/** Takes calls and makes them all at `flush`; results are there afterwards. */
export class EmulatedMachine implements Machine {
  readonly target: Target;
  readonly #buffer = new ArrayBuffer(EMULATED_BYTES);
  readonly #calls: EmulatedCall[] = [];
  readonly #code = new Map<unknown, number>();
  #top = 0;

  constructor(target: Target) {
    this.target = target;
  }

  allocate(bytes: number): Memory {
    const at = this.#top;
    this.#top += Math.ceil(bytes / 4) * 4;
    return {
      address: EMULATED_BASE + at,
      bytes,
      f32: new Float32Array(this.#buffer, at, bytes >> 2),
      u8: new Uint8Array(this.#buffer, at, bytes),
      u16: new Uint16Array(this.#buffer, at, bytes >> 1),
      i32: new Int32Array(this.#buffer, at, bytes >> 2),
    };
  }

  reset(): void {
    this.#top = 0;
  }

  compile<const A extends ArgumentTypes>(kernel: Kernel<A>): Run<A> {
    return (values, begin = 0, end = 1) => {
      let at = this.#code.get(kernel);
      if (at === undefined) {
        const { code } = emitX64(buildKernel(kernel, this.target));
        at = Math.ceil(this.#top / 64) * 64;
        this.#top = at + code.length;
        this.#code.set(kernel, at);
        new Uint8Array(this.#buffer).set(code, at);
      }
      const args = this.#top + (-this.#top & 7);
      this.#top = args + argumentBlockBytes(kernel);
      writeArguments(kernel, new DataView(this.#buffer), args, values);
      this.#calls.push({ function: at, args, begin, end });
    };
  }

  flush(): void {
    const memory = new Uint8Array(this.#buffer, 0, this.#top);
    memory.set(emulate(memory, this.#calls, this.target.tiles ? "amx" : "avx512"));
  }
}
