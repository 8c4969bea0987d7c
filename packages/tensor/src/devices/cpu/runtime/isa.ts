// Which kernels this process uses: the best tier that the processor has and that has an emitter, or the one forced.
import { missing } from "#system";
import type { CpuInfo } from "./cpu-info.ts";

/** Tiers of kernels, each with its own emitter or options of one. */
export type Isa = "avx2" | "avx512" | "amx" | "neon" | "wasm";

export const isas: readonly Isa[] = ["amx", "avx512", "avx2", "neon", "wasm"];

/** A tier was asked for that cannot run here. */
export class IsaError extends Error {
  override readonly name = "IsaError";
}

/**
 * The tier to use.
 * @param emitters tiers for which kernels can be made
 * @param forced the value of `TENSOR_ISA`, undefined or empty when unset
 * @throws IsaError when `forced` is no tier or cannot run here
 */
export function chooseIsa(cpu: CpuInfo | undefined, emitters: readonly Isa[], forced?: string): Isa {
  const usable = isas.filter((isa) => emitters.includes(isa) && missing(isa, cpu) === undefined);
  if (forced) {
    const isa = isas.find((name) => name === forced);
    const reason =
      isa === undefined
        ? "there is no such tier"
        : (missing(isa, cpu) ?? (emitters.includes(isa) ? "" : "it has no kernels yet"));
    if (isa !== undefined && reason === "") return isa;
    throw new IsaError(
      `TENSOR_ISA=${forced} is impossible here: ${reason}. Unset it, or use one of: ${usable.join(", ")}.`,
    );
  }
  const best = usable[0];
  if (best === undefined) throw new IsaError("no tier of kernels can run here, not even wasm");
  return best;
}
