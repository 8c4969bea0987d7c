/** A browser has WebGPU or it has not. */
export async function provideWebGpu(): Promise<void> {}
