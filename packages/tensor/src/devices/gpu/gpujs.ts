// Kernels in JavaScript, made WGSL by gpu.js. Its types leave out what is used here.
import type { KernelSource } from "./context.ts";

/** A kernel of gpu.js for WebGPU, as far as it translates. */
interface GpuJsKernel {
  readonly compiledSource: string;
  readonly paramsLayout: {
    readonly byteLength: number;
    readonly arrayArgs: readonly { readonly dimsOffset: number }[];
    readonly scalarArgs: readonly { readonly offset: number }[];
  };
  build(...args: unknown[]): Promise<void>;
}

/** The module `gpu.js`. */
export interface GpuJs {
  readonly WebGPUContext: { acquire(): Promise<{ adapter: GPUAdapter; device: GPUDevice }> };
  readonly WebGPUKernel: new (source: string, settings: object) => GpuJsKernel;
}

/** Invocations in a workgroup of gpu.js' one-dimensional kernels. */
export const GPUJS_ITEMS = 64;

/** A function that kernels may call, and its body in WGSL with arguments a, b, c: what JavaScript cannot say. */
export interface NativeFunction {
  readonly name: string;
  readonly inputs: number;
  readonly body: string;
}

/**
 * WGSL of a kernel function of gpu.js with a one-dimensional result: its arguments are `arrays` f32 arrays called x0, x1, …,
 * then `numbers` f32 numbers called p0, p1, …. The kernel's parameters are, in order: result size, 1, 1, threads in a row of
 * workgroups; four words of sizes for each array; the numbers. The arrays are bound first, then the result.
 *
 * gpu.js would compile and run it as well, but each kernel by itself, into a buffer of its own, and with a promise for an
 * answer: so it translates here, and the pipeline runs on the device's stream, into the memory that it is told. Its WebGPU
 * mode takes no native functions either: they are declared to it as functions of JavaScript, whose bodies are replaced.
 * @throws Error where gpu.js does not take the source, or no longer writes what is expected here
 */
export function translate(
  library: GpuJs,
  source: string,
  arrays: number,
  numbers: number,
  functions: readonly NativeFunction[],
  wgsl: string,
): KernelSource {
  class Translated extends library.WebGPUKernel {
    async _buildAsync(): Promise<void> {}
  }
  const letters = ["a", "b", "c"];
  const list = (count: number, name: string): string[] => Array.from({ length: count }, (_, i) => `${name}${i}`);
  const kernel = new Translated(source, {
    output: [GPUJS_ITEMS],
    argumentNames: [...list(arrays, "x"), ...list(numbers, "p")],
    argumentTypes: [...list(arrays, "").map(() => "Array"), ...list(numbers, "").map(() => "Float")],
    functions: functions.map(({ name, inputs }) => ({
      name,
      source: `function ${name}(${letters.slice(0, inputs)}) { return a; }`,
      argumentTypes: letters.slice(0, inputs).map(() => "Number"),
      returnType: "Number",
    })),
    // Sizes come with each call.
    dynamicOutput: true,
    dynamicArguments: true,
  });
  void kernel.build(...list(arrays, "").map(() => new Float32Array(1)), ...list(numbers, "").map(() => 0));
  const { paramsLayout } = kernel;
  const expected = [
    ...list(arrays, "").map((_, i) => 16 + 16 * i),
    ...list(numbers, "").map((_, i) => 16 + 16 * arrays + 4 * i),
  ];
  const found = [...paramsLayout.arrayArgs.map((a) => a.dimsOffset), ...paramsLayout.scalarArgs.map((a) => a.offset)];
  if (String(found) !== String(expected)) throw new Error(`gpu.js lays out parameters at ${found}, not ${expected}`);
  let code = kernel.compiledSource;
  for (const { name, body } of functions) {
    const before = code;
    code = code.replace(new RegExp(`(fn fn_${name}\\()[^{]*\\{[^}]*\\}`), () => {
      const inputs = functions.find((f) => f.name === name)!.inputs;
      const given = letters.slice(0, inputs).map((letter) => `${letter}: f32`);
      return `fn fn_${name}(${given.join(", ")}) -> f32 { return ${body}; }`;
    });
    if (code === before) throw new Error(`gpu.js no longer writes functions as fn_${name}`);
  }
  return { code: `${wgsl}\n${code}`, access: `${"r".repeat(arrays)}w` };
}
