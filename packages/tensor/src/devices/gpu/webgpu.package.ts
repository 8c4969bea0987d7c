import { existsSync } from "node:fs";
import { DeviceError } from "../../errors.ts";

/**
 * Gives Bun and Node what browsers have, `navigator.gpu`, from the package `webgpu` (Dawn).
 * @throws DeviceError where it is not installed, or its binary does not load
 */
export async function provideWebGpu(): Promise<void> {
  if (globalThis.navigator?.gpu) return;
  let dawn: typeof import("webgpu");
  try {
    dawn = await import("webgpu");
  } catch (cause) {
    throw new DeviceError("gpu", `needs WebGPU, and here the package for it does not load: npm install webgpu gpu.js`, {
      cause,
    });
  }
  Object.assign(globalThis, dawn.globals);
  const gpu = dawn.create([]);
  if (!globalThis.navigator) Object.defineProperty(globalThis, "navigator", { value: {}, configurable: true });
  Object.defineProperty(globalThis.navigator, "gpu", { value: gpu, configurable: true });
}

/** Can there be a GPU? On Linux one has a file in /dev; elsewhere only asking tells. */
export function maybeGpu(): boolean {
  if (process.platform !== "linux") return true;
  return ["/dev/dri/renderD128", "/dev/nvidia0", "/dev/dxg"].some((path) => existsSync(path));
}
