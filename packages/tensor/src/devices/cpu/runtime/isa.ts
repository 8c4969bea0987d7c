// Which kernels this process uses: the best tier that the processor has and that has an emitter, or the one forced.
import type { CpuInfo } from "./cpu-info.ts";

/** Tiers of kernels, each with its own emitter or options of one. */
export type Isa = "avx2" | "avx512" | "amx" | "neon" | "wasm";

export const isas: readonly Isa[] = ["amx", "avx512", "avx2", "neon", "wasm"];

/** A tier was asked for that cannot run here. */
export class IsaError extends Error {
  override readonly name = "IsaError";
}

/** Why this processor cannot run a tier, or undefined when it can. `cpu` is undefined where machine code cannot run. */
export function missing(isa: Isa, cpu: CpuInfo | undefined): string | undefined {
  if (isa === "wasm") return undefined;
  if (cpu === undefined) return "this runtime cannot run machine code";
  const { features } = cpu;
  const lacks = (wanted: readonly (keyof typeof features)[]) => {
    const absent = wanted.filter((feature) => !features[feature]);
    return absent.length === 0 ? undefined : `this processor (${cpu.brand}) has no ${absent.join(", ")}`;
  };
  switch (isa) {
    case "neon":
      return cpu.arch === "arm64" ? undefined : `this processor is ${cpu.arch}`;
    case "avx2":
      return lacks(["avx2", "fma", "f16c", "bmi1", "bmi2"]);
    case "avx512":
      return lacks(["avx2", "fma", "f16c", "bmi1", "bmi2", "avx512"]);
    case "amx":
      return lacks(["avx2", "fma", "f16c", "bmi1", "bmi2", "avx512", "avx512Bf16", "amxTile", "amxBf16"]);
  }
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
