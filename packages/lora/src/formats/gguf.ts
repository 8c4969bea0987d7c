/**
 * llama.cpp's adapters (github.com/ggml-org/llama.cpp, `convert_lora_to_gguf.py`, `src/llama-adapter.cpp`): a GGUF file with
 * `general.type` = `adapter`, `adapter.type` = `lora`, one `adapter.lora.alpha`, and for each layer `NAME.lora_a` [r, in] and `NAME.lora_b`
 * [out, r] in PEFT's shapes. The factor on B·A is alpha/r with that layer's own r, and 1 where alpha is 0.
 */

import {
  type GgufEntry,
  type GgufFile,
  type Module,
  noGrad,
  openGguf,
  type StoredType,
  scope,
  type Tensor,
  TensorError,
  type TensorSource,
  writeGguf,
} from "@tslm/tensor";
import { parseLoraConfig } from "../config.ts";
import { AdapterError } from "../errors.ts";
import { adapterKey, type Lora } from "../lora.ts";
import { linearLayers } from "../targets.ts";
import { PROMPT_KEY } from "./gguf-file.ts";
import {
  type AdapterTensors,
  type ForeignAdapter,
  type GgufNaming,
  literal,
  refuseMoreThanPairs,
  savedRank,
  targetsOf,
  usual,
} from "./source.ts";

/** Metadata of ours: `base_model_name_or_path`. */
const BASE_KEY = "tslm.base_model";

/** How a model's parameters are called in GGUF files, if it says so. */
export function ggufNaming(model: Module): GgufNaming | undefined {
  const { gguf } = model as { gguf?: GgufNaming };
  return gguf;
}

const SUFFIX = /^(.+)\.weight\.lora_([ab])$/;

/** PEFT's view of the file's tensors. */
class GgufTensors implements AdapterTensors {
  readonly file: string;
  readonly #source: GgufFile;
  readonly #names: ReadonlyMap<string, string>;
  /** @param layerOf a layer's name in the model, by its name in the file */
  constructor(source: GgufFile, layerOf: (name: string) => string) {
    this.file = source.file;
    this.#source = source;
    this.#names = new Map(
      source.names().map((name) => {
        const [, layer, which] = SUFFIX.exec(name) ?? [];
        return [layer === undefined ? name : adapterKey(layerOf(layer), `lora_${which.toUpperCase()}.weight`), name];
      }),
    );
  }
  names(): string[] {
    return [...this.#names.keys()];
  }
  has(name: string): boolean {
    return this.#names.has(name);
  }
  info(name: string) {
    const { type, shape } = this.#source.info(this.#names.get(name) ?? name);
    return { dtype: type, shape };
  }
  tensor(name: string, options: Parameters<AdapterTensors["tensor"]>[1]): Tensor {
    return this.#source.tensor(this.#names.get(name) ?? name, options);
  }
  close(): void {
    this.#source.close();
  }
}

/** Opens an adapter's GGUF file. @throws AdapterError when it is none */
async function openChecked(path: string): Promise<GgufFile> {
  const file = await openGguf(path).catch((cause) => {
    throw cause instanceof TensorError ? new AdapterError(path, cause.message, { cause }) : cause;
  });
  const must = (key: string, wanted: string): void => {
    const value = file.metadata.get(key);
    if (value === wanted) return;
    file.close();
    const hint = value === "model" || key === "general.type" ? "; a whole model goes to --model" : "";
    throw new AdapterError(
      path,
      `is no LoRA adapter: ${key} is ${JSON.stringify(value) ?? "missing"}, not "${wanted}"${hint}`,
    );
  };
  must("general.type", "adapter");
  must("adapter.type", "lora");
  return file;
}

/**
 * Opens an adapter in llama.cpp's format.
 *
 * @param model gives the names of its layers; without it they stay as the file has them, and only the configuration is of use
 * @throws AdapterError when the file is broken, no adapter, or of another architecture
 */
export async function openGgufAdapter(path: string, model?: Module): Promise<ForeignAdapter> {
  const file = await openChecked(path);
  try {
    const naming = model && ggufNaming(model);
    if (model && !naming)
      throw new AdapterError(path, "this model has no names for GGUF; use the adapter in PEFT's format");
    const architecture = file.metadata.get("general.architecture");
    if (naming && architecture !== naming.architecture) {
      throw new AdapterError(
        path,
        `is for a model of the architecture ${JSON.stringify(architecture)}, this one is "${naming.architecture}"`,
      );
    }
    const known = new Map<string, string>();
    if (model && naming) {
      for (const name of linearLayers(model).keys())
        known.set(naming.nameOf(`${name}.weight`).replace(/\.weight$/, ""), name);
    }
    const layerOf = (name: string): string => known.get(name) ?? name;
    const ranks = new Map<string, number>();
    for (const name of file.names()) {
      const [, layer, which] = SUFFIX.exec(name) ?? [];
      if (which === "a") ranks.set(layerOf(layer), file.info(name).shape[0]);
    }
    if (ranks.size === 0) throw new AdapterError(path, "holds no tensor that ends in .lora_a");
    return { config: configOf(file, ranks), tensors: new GgufTensors(file, layerOf) };
  } catch (error) {
    file.close();
    throw error;
  }
}

function configOf({ file, metadata }: GgufFile, ranks: ReadonlyMap<string, number>): ForeignAdapter["config"] {
  const stored = metadata.get("adapter.lora.alpha") ?? 0;
  if (typeof stored !== "number" || !(stored >= 0)) {
    throw new AdapterError(file, `adapter.lora.alpha is ${String(stored)}, not a number of at least 0`);
  }
  const r = usual(ranks.values());
  const odd = [...ranks].filter(([, rank]) => rank !== r);
  const base = metadata.get(BASE_KEY);
  return parseLoraConfig({
    r,
    // Without alpha, llama.cpp takes B·A as it is.
    lora_alpha: stored === 0 ? r : stored,
    rank_pattern: Object.fromEntries(odd.map(([name, rank]) => [literal(name), rank])),
    alpha_pattern: stored === 0 ? Object.fromEntries(odd.map(([name, rank]) => [literal(name), rank])) : {},
    ...targetsOf([...ranks.keys()]),
    base_model_name_or_path: typeof base === "string" ? base : null,
  });
}

/** What is written beside the adapter's tensors. */
export interface LoraGgufOptions {
  /** What the file says of itself, `general.name`. */
  name: string;
  baseModel?: string;
  /** The text of a `prompt.json`. */
  prompt?: string;
  /** Type of A and B. */
  type?: Extract<StoredType, "f32" | "f16" | "bf16">;
}

/** The tensors of {@link writeLoraGguf}, and the alpha that they are for. */
function ggufPairs(
  lora: Lora,
  { nameOf }: GgufNaming,
  type: StoredType,
): { alpha: number; tensors: Map<string, TensorSource> } {
  // One alpha for all: B takes what is different, as where rsLoRA or an alpha of its own scales a layer.
  const layers = [...lora.layers].map(([name, layer]) => ({ name, layer, rank: savedRank(layer) }));
  const alpha = usual(layers.map(({ layer, rank }) => Math.fround(layer.scaling * rank)));
  const tensors = new Map<string, TensorSource>();
  for (const { name, layer, rank } of layers) {
    const { inFeatures, outFeatures, variant } = layer;
    const stored = nameOf(`${name}.weight`);
    const factor = (layer.scaling * rank) / alpha;
    const read = (make: () => Tensor) => (): Tensor => scope(() => noGrad(make)).keep();
    tensors.set(`${stored}.lora_a`, {
      type,
      shape: [rank, inFeatures],
      read: read(() => variant.savedPair(layer).loraA.clone()),
    });
    tensors.set(`${stored}.lora_b`, {
      type,
      shape: [outFeatures, rank],
      read: read(() => variant.savedPair(layer).loraB.mul(factor)),
    });
  }
  return { alpha, tensors };
}

/**
 * Writes an adapter for llama.cpp (`--lora FILE`). The file is there whole or not at all.
 * @throws AdapterError for a model without names in GGUF; TensorError when the file cannot be written
 */
export async function writeLoraGguf(
  path: string,
  lora: Lora,
  { name, baseModel, prompt, type = "f32" }: LoraGgufOptions,
): Promise<void> {
  const naming = ggufNaming(lora.model);
  if (!naming) throw new AdapterError(path, "this model has no names for GGUF");
  refuseMoreThanPairs(lora, "a GGUF adapter");
  const { alpha, tensors } = ggufPairs(lora, naming, type);
  const base = baseModel ?? lora.config.base_model_name_or_path;
  const metadata = new Map<string, GgufEntry>([
    ["general.architecture", naming.architecture],
    ["general.type", "adapter"],
    ["general.name", name],
    ["adapter.type", "lora"],
    ["adapter.lora.alpha", { float32: alpha }],
  ]);
  if (base) metadata.set(BASE_KEY, base);
  if (prompt !== undefined) metadata.set(PROMPT_KEY, prompt);
  await writeGguf(path, tensors, metadata);
}
