/** A machine for the tests of kernels whose processor is not at hand: their intermediate form is run step by step. */
import type { Machine, Memory, Run } from "../kernels/testing.ts";
import { type ArgumentTypes, argumentBlockBytes, buildKernel, type Kernel, writeArguments } from "../lang/kernel.ts";
import type { Target } from "../lang/target.ts";
import { ModelMemory, runModel } from "../lang/testing.ts";

export class ModelledMachine implements Machine {
  readonly target: Target;
  readonly #memory = new ModelMemory(32 << 20);

  constructor(target: Target) {
    this.target = target;
  }

  allocate(bytes: number): Memory {
    const address = this.#memory.allocate(bytes);
    const { buffer } = this.#memory;
    return {
      address,
      bytes,
      f32: new Float32Array(buffer, address, bytes >> 2),
      u8: new Uint8Array(buffer, address, bytes),
      u16: new Uint16Array(buffer, address, bytes >> 1),
      i32: new Int32Array(buffer, address, bytes >> 2),
    };
  }

  reset(): void {
    this.#memory.reset();
  }

  compile<const A extends ArgumentTypes>(kernel: Kernel<A>): Run<A> {
    const code = buildKernel(kernel, this.target);
    return (values, begin = 0, end = 1) => {
      const args = this.#memory.allocate(argumentBlockBytes(kernel));
      writeArguments(kernel, this.#memory.view, args, values);
      runModel(this.#memory, code, args, begin, end);
    };
  }
}
