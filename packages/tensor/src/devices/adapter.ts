// Is there a GPU? Asked before anything of the gpu device is loaded: its code is as large as that of the compiled one.
import { maybeGpu, provideWebGpu } from "#webgpu";

/** Does this adapter compute on the processor? */
export function isSoftware(info: GPUAdapterInfo): boolean {
  const { description, isFallbackAdapter } = info as GPUAdapterInfo & { readonly isFallbackAdapter?: boolean };
  return isFallbackAdapter === true || /llvmpipe|lavapipe|swiftshader|basic render/i.test(description);
}

/** Whether WebGPU has an adapter here that does not compute on the processor. */
export async function hasGpu(): Promise<boolean> {
  if (!maybeGpu()) return false;
  try {
    await provideWebGpu();
    const adapter = await globalThis.navigator.gpu.requestAdapter({ powerPreference: "high-performance" });
    return adapter !== null && !isSoftware(adapter.info);
  } catch {
    return false;
  }
}
