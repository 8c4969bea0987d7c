// What only machine code can do: tiers with their emitters, and kernels for matrix tiles. `#machine-code` is this interface
// under Bun (machine-code.bun.ts) and `undefined` in Node and browsers (machine-code.none.ts), whose bundles hold none of it.
import type { attentionBackwardOnTiles, attentionOnTiles, fitsTiles } from "./attention-tiles.ts";
import type { KernelCode } from "./lang/ir.ts";
import type { Target } from "./lang/target.ts";
import type { productOnTiles } from "./matmul-tiles.ts";
import type { recordCalls } from "./recording.ts";
import type { CpuFeatures, Isa } from "./runtime/index.ts";

/** A kind of code that kernels become. */
export interface Tier {
  readonly target: Target;
  /** The kernel's code, and its text where that is wanted and there is one. */
  readonly emit: (
    code: KernelCode,
    listing: boolean,
    features: CpuFeatures | undefined,
  ) => { code: Uint8Array; listing: readonly string[] };
}

/** Operations on matrix tiles (AMX); each gives false where the processor has none or they do not take the sizes. */
export interface Tiles {
  readonly product: typeof productOnTiles;
  readonly fitsAttention: typeof fitsTiles;
  readonly attention: typeof attentionOnTiles;
  readonly attentionBackward: typeof attentionBackwardOnTiles;
}

export interface MachineCode {
  readonly tiers: { readonly [I in Isa]?: Tier };
  readonly tiles: Tiles;
  /** See `Device.record`; what it saves counts where kernels are fast. */
  readonly record: typeof recordCalls;
}
