/** A browser has WebGPU or it has not. */
export async function provideWebGpu(): Promise<void> {}

/** Does the browser have WebGPU at all? */
export function maybeGpu(): boolean {
  return globalThis.navigator?.gpu !== undefined;
}
