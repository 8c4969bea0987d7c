import { type Generator, parameter, randn, type Tensor, type TensorOptions, uniform, zeros } from "@tslm/tensor";
import type { LoraConfig } from "../config.ts";

/** A and B of one layer as training starts. */
export interface LoraPair {
  loraA: Tensor;
  loraB: Tensor;
}

type Initialize = (
  shape: { rank: number; inFeatures: number; outFeatures: number },
  random: Generator,
  options: TensorOptions,
) => LoraPair;

/** Uniform within ±√(6/((1+a²)·fan_in)) for a = √5, which is ±1/√fan_in: PyTorch's default for a linear layer. */
function kaiming(rows: number, fanIn: number, random: Generator, options: TensorOptions): Tensor {
  return parameter(() => uniform([rows, fanIn], 1 / Math.sqrt(fanIn), random.next(), options));
}

/** By the values of PEFT's `init_lora_weights` that leave the base weights alone. */
const initializers = {
  /** A Kaiming-uniform, B zero: the adapter begins as no change. */
  true: ({ rank, inFeatures, outFeatures }, random, options) => ({
    loraA: kaiming(rank, inFeatures, random, options),
    loraB: parameter(() => zeros([outFeatures, rank], options)),
  }),
  /** Both Kaiming-uniform: a change from the start, for tests. */
  false: ({ rank, inFeatures, outFeatures }, random, options) => ({
    loraA: kaiming(rank, inFeatures, random, options),
    loraB: kaiming(outFeatures, rank, random, options),
  }),
  /** A normal with standard deviation 1/r, B zero. */
  gaussian: ({ rank, inFeatures, outFeatures }, random, options) => ({
    loraA: parameter(() => randn([rank, inFeatures], random.next(), options).mul(1 / rank)),
    loraB: parameter(() => zeros([outFeatures, rank], options)),
  }),
} satisfies Record<string, Initialize>;

/** The initialisation that a configuration asks for; undefined where it depends on the base weights. */
export function initializerOf({ init_lora_weights: name }: LoraConfig): Initialize | undefined {
  const known: Readonly<Record<string, Initialize>> = initializers;
  return known[String(name)];
}
