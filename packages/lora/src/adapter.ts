import { existsSync } from "node:fs";
import { readFile, writeFile } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import {
  type Linear,
  type Module,
  openSafetensors,
  parameter,
  type SafetensorsFile,
  type Tensor,
  TensorError,
  writeSafetensors,
} from "@tslm/tensor";
import {
  type BytesOptions,
  CONFIG_FILE,
  configText,
  promptText,
  WEIGHTS_FILE,
  withSavedTensors,
} from "./adapter-bytes.ts";
import { type LoraConfig, parseLoraConfig } from "./config.ts";
import { AdapterError, ConfigError } from "./errors.ts";
import { formatCard, isCard } from "./export/card.ts";
import { type FileContent, finishSave, readJson, saveFolder } from "./folder.ts";
import { openGgufAdapter } from "./formats/gguf.ts";
import { findGguf } from "./formats/gguf-file.ts";
import { isMlxConfig, openMlxAdapter } from "./formats/mlx.ts";
import type { AdapterTensors } from "./formats/source.ts";
import {
  adapterKey,
  baseFactors,
  type Lora,
  type MatchedLayer,
  makeLora,
  matchedLayers,
  pairOptions,
  residualOf,
} from "./lora.ts";
import { PROMPT_FILE } from "./prompt.ts";
import { formatRecord, RECORD_FILE, type TrainingRecord } from "./record.ts";
import { targetLayers } from "./targets.ts";
import { DoraLora, MAGNITUDE } from "./variants/dora.ts";
import { fromBaseOf } from "./variants/from-base.ts";

/** The model card, as hubs show it. */
export const CARD_FILE = "README.md";

/** What is saved beside the adapter itself. */
export interface SaveOptions extends BytesOptions {
  /** Written as `training.json`; with it comes a model card, `README.md`. */
  record?: TrainingRecord;
}

/**
 * Writes an adapter in PEFT's format: `adapter_config.json` and `adapter_model.safetensors`, and what belongs to it. One
 * that began as a part of the base weight (PiSSA, OLoRA) is written as a plain one of twice the rank, which every tool
 * loads on the unchanged base model.
 * The files appear together: an interrupted save leaves an earlier adapter whole.
 * @throws AdapterError when the folder cannot be written
 */
export async function saveAdapter(folder: string, lora: Lora, options: SaveOptions = {}): Promise<void> {
  const files = adapterFiles(lora, options);
  if (options.record && (await mayWriteCard(folder))) files[CARD_FILE] = cardOf(folder, lora, options);
  await saveFolder(folder, files);
}

/** A README.md that someone else wrote stays. */
async function mayWriteCard(folder: string): Promise<boolean> {
  const found = await readFile(join(folder, CARD_FILE), "utf8").catch(() => undefined);
  return found === undefined || isCard(found);
}

function cardOf(folder: string, lora: Lora, { baseModel, prompt, record }: SaveOptions): string {
  const base = baseModel ?? lora.config.base_model_name_or_path;
  const config = { ...lora.config, base_model_name_or_path: base };
  const title = basename(resolve(folder));
  const about = `A LoRA adapter${base ? ` for ${base}` : ""}, in PEFT's format.`;
  return formatCard({ title, about, library: "peft", config, prompt, record });
}

/** The files of {@link saveAdapter}. */
export function adapterFiles(lora: Lora, options: SaveOptions = {}): Record<string, FileContent> {
  const files: Record<string, FileContent> = {
    [CONFIG_FILE]: configText(lora, options),
    [WEIGHTS_FILE]: (path) => withSavedTensors(lora, (tensors) => writeSafetensors(path, tensors, { format: "pt" })),
  };
  if (options.prompt) {
    const { prompt } = options;
    files[PROMPT_FILE] = async (path) => writeFile(path, await promptText(lora, prompt));
  }
  if (options.record) files[RECORD_FILE] = formatRecord(options.record);
  return files;
}

/**
 * The configuration of an adapter: PEFT's, or what it would be of an adapter in another tool's format (mlx-lm's folder, llama.cpp's
 * GGUF file, whose layers keep their names there).
 * @throws AdapterError when there is none, or it asks for what is not supported
 */
export async function readAdapterConfig(path: string): Promise<LoraConfig> {
  const { config, tensors } = await openAdapter(path);
  tensors?.close();
  return config;
}

/** An adapter's configuration and, where they come from one place, its tensors. */
async function openAdapter(path: string, model?: Module): Promise<{ config: LoraConfig; tensors?: AdapterTensors }> {
  await finishSave(path);
  const file = path.toLowerCase().endsWith(".gguf") ? path : join(path, CONFIG_FILE);
  const json = await readJson(join(path, CONFIG_FILE));
  try {
    if (isMlxConfig(json)) return await openMlxAdapter(path, json);
    if (json !== undefined) return { config: parseLoraConfig(json) };
    const gguf = await findGguf(path);
    if (gguf !== undefined) return await openGgufAdapter(gguf, model);
  } catch (cause) {
    throw cause instanceof ConfigError ? new AdapterError(file, cause.message, { cause }) : cause;
  }
  throw new AdapterError(
    file,
    "there is no such file; an adapter is a folder with this file in it, as PEFT and mlx-lm save it, or a GGUF file",
  );
}

/**
 * Loads an adapter that PEFT, mlx-lm, llama.cpp's converter or {@link saveAdapter} wrote and attaches it to its model. bf16, f16
 * and q8_0 tensors are widened to f32.
 * @param path the folder, or a GGUF file
 * @throws AdapterError when a file is missing or broken, or the adapter belongs to another model: the first tensor
 * that does not fit and both shapes are named, or the keys that are missing or unexpected
 */
export async function loadAdapter(path: string, model: Module): Promise<Lora> {
  const { config, tensors } = await openAdapter(path, model);
  const file = tensors ?? (await openWeights(join(path, WEIGHTS_FILE)));
  try {
    const layers = matchedLayers(matchTargets(path, model, config), config);
    checkKeys(file, layers, config);
    // As PEFT saves them without converting: what is left of the base weight is found again from the weight.
    const factors = fromBaseOf(config) && (await baseFactors(layers, config));
    const read = (key: string, layer: Linear): Tensor => {
      const { dtype, device } = pairOptions(layer);
      return parameter(() =>
        file
          .tensor(key, { device })
          .to(dtype ?? "f32")
          .clone(),
      );
    };
    return makeLora(model, config, layers, ({ name, layer }) => {
      const pair = {
        loraA: read(adapterKey(name, "lora_A.weight"), layer),
        loraB: read(adapterKey(name, "lora_B.weight"), layer),
      };
      if (config.use_dora) return { pair, variant: new DoraLora(read(adapterKey(name, MAGNITUDE), layer), layer) };
      return factors ? { pair, variant: residualOf(factors.get(name)!, layer) } : { pair };
    });
  } finally {
    file.close();
  }
}

async function openWeights(path: string): Promise<SafetensorsFile> {
  try {
    return await openSafetensors(path);
  } catch (cause) {
    if (cause instanceof TensorError) {
      const old = existsSync(path.replace(/safetensors$/, "bin"));
      const hint = old ? "; adapter_model.bin is PEFT's old format: save it again with safe_serialization=True" : "";
      throw new AdapterError(path, `${cause.message}${hint}`, { cause });
    }
    throw cause;
  }
}

function matchTargets(folder: string, model: Module, config: LoraConfig): Map<string, Linear> {
  try {
    return targetLayers(model, config);
  } catch (cause) {
    if (!(cause instanceof ConfigError)) throw cause;
    throw new AdapterError(folder, `the adapter does not fit this model${madeFor(config)}: ${cause.message}`, {
      cause,
    });
  }
}

function madeFor({ base_model_name_or_path: base }: LoraConfig): string {
  return base ? ` (it was made for ${base})` : "";
}

/** At most this many keys are named in an error. */
const SHOWN_KEYS = 4;

function list(keys: readonly string[]): string {
  const rest = keys.length - SHOWN_KEYS;
  return keys.slice(0, SHOWN_KEYS).join(", ") + (rest > 0 ? ` and ${rest} more` : "");
}

const WEIGHT_TYPES = ["F32", "BF16", "F16", "F64", "Q8_0"];

/** Are there exactly the tensors, of the shapes, that the configuration gives on this model? */
function checkKeys(file: AdapterTensors, layers: readonly MatchedLayer[], config: LoraConfig): void {
  const path = file.file;
  const shapes = new Map<string, readonly number[]>();
  for (const { name, layer, rank } of layers) {
    const { inFeatures, outFeatures } = layer;
    shapes.set(adapterKey(name, "lora_A.weight"), [rank, inFeatures]);
    shapes.set(adapterKey(name, "lora_B.weight"), [outFeatures, rank]);
    if (config.use_dora) shapes.set(adapterKey(name, MAGNITUDE), [outFeatures]);
  }
  for (const [key, shape] of shapes) {
    if (!file.has(key)) continue;
    const { shape: found, dtype } = file.info(key);
    if (found.join() !== shape.join()) {
      throw new AdapterError(
        path,
        `the adapter does not fit this model${madeFor(config)}: ${key} is [${found}], here it must be [${shape}]`,
      );
    }
    if (!WEIGHT_TYPES.includes(dtype)) {
      throw new AdapterError(path, `${key} is ${dtype}; an adapter's tensors are ${WEIGHT_TYPES.join(", ")}`);
    }
  }
  const missing = [...shapes.keys()].filter((key) => !file.has(key));
  const unexpected = file.names().filter((key) => !shapes.has(key));
  const problems = [
    ...(missing.length > 0 ? [`missing ${list(missing)}`] : []),
    ...(unexpected.length > 0 ? [`unexpected ${list(unexpected)}`] : []),
  ];
  if (problems.length > 0) {
    throw new AdapterError(path, `the adapter does not fit this model${madeFor(config)}: ${problems.join("; ")}`);
  }
}
