import { type Linear, parameter, Tensor, type TensorOptions } from "@tslm/tensor";
import type { LoraConfig } from "../config.ts";
import { ConfigError } from "../errors.ts";
import { type Matrix, matrixOf } from "../linalg/matrix.ts";
import type { LoraPair } from "./init.ts";
import { olora } from "./olora.ts";
import { pissa } from "./pissa.ts";

/** A and B on the host: rows of A, [in] each, and columns of B, [out] each. */
export interface Factors {
  readonly a: readonly Float64Array[];
  readonly b: readonly Float64Array[];
}

type FromBase = (weight: Matrix, rank: number, scaling: number) => Factors;

/** The way to begin that looks at the base weights, if the configuration asks for one. */
export function fromBaseOf({ init_lora_weights: name }: LoraConfig): FromBase | undefined {
  if (typeof name !== "string" || name === "gaussian") return undefined;
  return name === "olora" ? olora : pissa;
}

/**
 * Computes the factors of one layer. @throws ConfigError for a rank above the weight's
 *
 * @param name of the layer, for the error
 */
export async function factorsOf(
  make: FromBase,
  { name, layer, rank, scaling }: { name: string; layer: Linear; rank: number; scaling: number },
): Promise<Factors> {
  const most = Math.min(layer.inFeatures, layer.outFeatures);
  if (rank > most) {
    throw new ConfigError("r", `r is ${rank}, but the weight of ${name} has only ${most} components; take a lower one`);
  }
  return make(await matrixOf(layer.weight), rank, scaling);
}

/** The factors as tensors, trainable or not. */
export function pairOf({ a, b }: Factors, options: TensorOptions, requiresGrad: boolean): LoraPair {
  const [inFeatures, outFeatures] = [a[0].length, b[0].length];
  const flatA = Float64Array.from(
    { length: a.length * inFeatures },
    (_, i) => a[Math.floor(i / inFeatures)][i % inFeatures],
  );
  const flatB = Float64Array.from(
    { length: outFeatures * b.length },
    (_, i) => b[i % b.length][Math.floor(i / b.length)],
  );
  return {
    loraA: parameter(() => Tensor.from(flatA, [a.length, inFeatures], options), requiresGrad),
    loraB: parameter(() => Tensor.from(flatB, [outFeatures, b.length], options), requiresGrad),
  };
}
