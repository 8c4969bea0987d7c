// What each tier needs of the processor.
import type { CpuInfo } from "./cpu-info.ts";
import type { Isa } from "./isa.ts";

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
