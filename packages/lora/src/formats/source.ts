import { type Device, noGrad, type Shape, scope, type Tensor } from "@tslm/tensor";
import type { LoraConfig } from "../config.ts";
import { AdapterError } from "../errors.ts";
import type { Lora } from "../lora.ts";
import type { LoraLinear } from "../lora-linear.ts";

/** An adapter's tensors under PEFT's keys and in PEFT's shapes, whatever the format of the file they lie in. */
export interface AdapterTensors {
  /** What errors call the file. */
  readonly file: string;
  names(): string[];
  has(name: string): boolean;
  /** @throws FormatError when there is no such tensor */
  info(name: string): { readonly dtype: string; readonly shape: Shape };
  tensor(name: string, options: { device?: Device }): Tensor;
  close(): void;
}

/** An adapter in a file of another tool, and the configuration that PEFT would have of it. */
export interface ForeignAdapter {
  readonly config: LoraConfig;
  readonly tensors: AdapterTensors;
}

/** How GGUF files call a model's architecture and parameters. A model that has `gguf` reads and writes adapters in that format. */
export interface GgufNaming {
  readonly architecture: string;
  nameOf(parameter: string): string;
}

/**
 * PEFT's `target_modules` for a set of layers: the endings of their names where these are all that end so in the layers
 * concerned, else the whole names.
 */
export function targetsOf(names: readonly string[]): Pick<LoraConfig, "target_modules" | "layers_to_transform"> {
  const parts = names.map((name) => /^.*\blayers\.(\d+)\.(?:.*\.)?([^.]+)$/.exec(name));
  if (parts.every((part) => part !== null)) {
    const layers = [...new Set(parts.map(([, layer]) => Number(layer)))].sort((a, b) => a - b);
    const endings = [...new Set(parts.map(([, , ending]) => ending))];
    if (layers.length * endings.length === names.length) {
      return { target_modules: endings, layers_to_transform: layers };
    }
  }
  return { target_modules: [...names], layers_to_transform: null };
}

/** The value that most have; the first of equals. For ranks and alphas, whose exceptions go into patterns. */
export function usual(values: Iterable<number>): number {
  const counts = new Map<number, number>();
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
  return [...counts].reduce((best, entry) => (entry[1] > best[1] ? entry : best))[0];
}

/** A name as a pattern that matches it alone. */
export function literal(name: string): string {
  return name.replaceAll(".", "\\.");
}

/** @throws AdapterError for an adapter with more to it than A and B, which a format has no place for */
export function refuseMoreThanPairs(lora: Lora, format: string): void {
  for (const [name, layer] of lora.layers) {
    const [more] = layer.variant.adapterTensors();
    if (more === undefined) continue;
    throw new AdapterError(
      name,
      `has ${more[0]} beside its two matrices, which ${format} has no place for; merge the adapter into the model instead`,
    );
  }
}

/** The rank of a layer in the files of other tools: of PiSSA and OLoRA twice its own. */
export function savedRank(layer: LoraLinear): number {
  return scope(() => noGrad(() => [...layer.variant.savedPair(layer).loraA.shape]))[0];
}
