// Which of gpu.js' backends works here is found by asking each and letting it multiply; nothing is concluded from names.
import { DeviceError } from "../../../errors.ts";
import { Backend, FALLBACKS, type FallbackName, type GpuJsRunner } from "./backend.ts";
import { FallbackDevice } from "./device.ts";

async function loadRunner(): Promise<GpuJsRunner> {
  try {
    const module = (await import("gpu.js")) as unknown as GpuJsRunner & { default?: GpuJsRunner };
    return module.default?.GPU ? module.default : module;
  } catch (cause) {
    throw new DeviceError("gpu", "needs the package gpu.js, which is not installed: npm install gpu.js", { cause });
  }
}

/**
 * The gpu device on the first of these backends that computes rightly.
 *
 * @param names in the order in which they are tried
 * @param refused what was tried before, and why not
 * @throws DeviceError when none works, with the reasons of all
 */
export async function openFallback(
  names: readonly FallbackName[] = FALLBACKS,
  refused: readonly string[] = [],
  runner?: GpuJsRunner,
): Promise<FallbackDevice> {
  const reasons = [...refused];
  const library = runner ?? (await loadRunner());
  for (const name of names) {
    try {
      return new FallbackDevice(Backend.open(name, library), reasons);
    } catch (error) {
      if (!(error instanceof DeviceError)) throw error;
      reasons.push(error.message);
    }
  }
  throw new DeviceError("gpu", `no backend works here: ${reasons.join("; ")}`);
}
