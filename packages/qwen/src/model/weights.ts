import { stat } from "node:fs/promises";
import { join, resolve } from "node:path";
import { type Device, defaultDevice, type GgufFile, openSafetensors, type SafetensorsFile } from "@tslm/tensor";
import { z } from "zod";
import { checkShape } from "../check-shape.ts";
import type { ModelConfig } from "../config.ts";
import { ModelFileError } from "../errors.ts";
import { ggufWeights, type Loading } from "../gguf/weights.ts";
import { readJsonFile } from "../json-file.ts";
import type { QwenModel } from "./model.ts";
import { keepQuantized, openQuantized, type Quantization, quantizeAll, quantizedPlace } from "./quantize.ts";
import { modelOf, readWeights, type WeightFiles } from "./read-weights.ts";

const MAX_INDEX_BYTES = 64 << 20;
const MAX_SHARDS = 1024;
/** A shard lies beside its index: a path, a drive or a stream would lead elsewhere. */
const SHARD_NAME = /^[A-Za-z0-9][A-Za-z0-9._-]*\.safetensors$/;

const indexSchema = z.looseObject(
  {
    weight_map: z.record(
      z.string(),
      z.string({ error: "must be a file name" }).regex(SHARD_NAME, {
        error: (issue) =>
          `must be the plain name of a .safetensors file in the same folder, but is ${JSON.stringify(issue.input)}`,
      }),
      { error: "must map tensor names to file names" },
    ),
  },
  { error: "must be a JSON object" },
);

async function isFile(path: string): Promise<boolean> {
  return stat(path).then(
    (info) => info.isFile(),
    () => false,
  );
}

async function openWeights(dir: string): Promise<WeightFiles> {
  const single = join(dir, "model.safetensors");
  if (await isFile(single)) {
    return { label: single, shards: new Map([[single, await openSafetensors(single)]]), index: undefined };
  }
  const label = join(dir, "model.safetensors.index.json");
  const value = await readJsonFile(label, MAX_INDEX_BYTES);
  if (value === undefined) {
    throw new ModelFileError(
      single,
      "does not exist, nor does model.safetensors.index.json; a model's weights must be safetensors (.bin files are not read)",
    );
  }
  const index = new Map(Object.entries(checkShape(indexSchema, value, label).weight_map));
  const names = [...new Set(index.values())].sort();
  if (names.length > MAX_SHARDS) {
    throw new ModelFileError(label, `names ${names.length} files; at most ${MAX_SHARDS} are accepted`);
  }
  const shards = new Map<string, SafetensorsFile>();
  try {
    for (const name of names) {
      const file = join(dir, name);
      if (!(await isFile(file))) {
        throw new ModelFileError(file, "does not exist, but model.safetensors.index.json names it; download it again");
      }
      shards.set(name, await openSafetensors(file));
    }
  } catch (error) {
    for (const shard of shards.values()) shard.close();
    throw error;
  }
  return { label, shards, index };
}

export interface LoadModelOptions {
  /** The default device unless given. */
  device?: Device;
  signal?: AbortSignal;
  /** Called after each tensor. */
  onProgress?: (loaded: number, total: number) => void;
  /**
   * Round matrices to blocks of 8 or of 4 bits: less memory to read for each token, a little of the model's quality. The
   * rounded weights are kept in a cache and mapped the next time.
   */
  quantize?: Quantization;
  /** Where rounded weights are kept; see `quantizedFolder`. */
  quantizedCache?: string;
}

/**
 * Reads a model's weights, `model.safetensors` or the shards of `model.safetensors.index.json`, all frozen. Matrices
 * stay in the mapped file as they are (bf16 or f32; f16 is converted, exactly); biases and norms become f32.
 *
 * @throws ModelFileError naming every missing, unexpected and mis-shaped tensor; FormatError for a file that is no
 * safetensors file
 */
export async function loadModel(
  dir: string,
  config: ModelConfig,
  { device = defaultDevice(), signal, onProgress, quantize, quantizedCache }: LoadModelOptions = {},
): Promise<QwenModel> {
  const loading = { signal, onProgress };
  if (quantize === undefined)
    return modelOf(config, await readWeights(await openWeights(dir), config, device, loading));
  const place = await quantizedPlace(dir, await weightFiles(dir), quantize, quantizedCache);
  const kept = await openQuantized(place);
  if (kept) return modelOf(config, await readKept(kept, config, device, loading));
  const tensors = await readWeights(await openWeights(dir), config, device, { signal });
  try {
    await quantizeAll(tensors, quantize, loading);
    const file = await keepQuantized(place, tensors);
    if (!file) return modelOf(config, tensors);
    const mapped = await readKept(file, config, device, { signal });
    for (const t of tensors.values()) t.dispose();
    return modelOf(config, mapped);
  } catch (error) {
    for (const t of tensors.values()) t.dispose();
    throw error;
  }
}

async function readKept(file: GgufFile, config: ModelConfig, device: Device, loading: Loading) {
  try {
    return await ggufWeights(file, config, device, loading);
  } finally {
    file.close();
  }
}

/** The files that hold a folder's weights. */
async function weightFiles(dir: string): Promise<string[]> {
  const files = await openWeights(dir);
  for (const shard of files.shards.values()) shard.close();
  return [...files.shards.keys()].map((name) => resolve(dir, name));
}
