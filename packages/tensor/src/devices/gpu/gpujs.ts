// What this folder uses of gpu.js, and what its type declarations leave out.

/** A kernel of gpu.js for WebGPU, as far as it translates JavaScript to WGSL. */
export interface GpuJsKernel {
  readonly compiledSource: string;
  readonly paramsLayout: {
    readonly byteLength: number;
    readonly arrayArgs: readonly { readonly name: string; readonly dimsOffset: number }[];
    readonly scalarArgs: readonly { readonly name: string; readonly offset: number; readonly type: string }[];
  };
  build(...args: unknown[]): Promise<void>;
}

/** The module `gpu.js`. */
export interface GpuJs {
  readonly WebGPUContext: { acquire(): Promise<{ adapter: GPUAdapter; device: GPUDevice }> };
  readonly WebGPUKernel: new (source: string, settings: object) => GpuJsKernel;
}
