import { stat } from "node:fs/promises";
import { join, resolve } from "node:path";
import { setImmediate } from "node:timers/promises";
import {
  type Device,
  defaultDevice,
  type GgufFile,
  openSafetensors,
  type SafetensorsFile,
  scope,
  type Tensor,
} from "@tslm/tensor";
import { z } from "zod";
import type { ModelConfig } from "../config.ts";
import { ModelFileError } from "../errors.ts";
import { ggufWeights, type Loading } from "../gguf/weights.ts";
import { checkShape, readJsonFile } from "../json-file.ts";
import { QwenModel } from "./model.ts";
import { parameterShapes } from "./parameters.ts";
import { keepQuantized, openQuantized, type Quantization, quantizeAll, quantizedPlace } from "./quantize.ts";

/** Element types of weights, as safetensors names them. F16 becomes bf16 or f32, whichever holds it exactly. */
const ELEMENT_TYPES = ["BF16", "F32", "F16"];
const MAX_INDEX_BYTES = 64 << 20;
const MAX_SHARDS = 1024;
/** Problems told in an error's message; a wrong config makes every tensor one. */
const MAX_TOLD = 40;

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

/** Buffers of old checkpoints that are computed anew, and the head's copy where it is the embedding. */
function isIgnored(name: string, config: ModelConfig): boolean {
  return name.endsWith(".rotary_emb.inv_freq") || (config.tieWordEmbeddings && name === "lm_head.weight");
}

interface WeightFiles {
  /** What errors call the whole: the one file, or the index. */
  readonly label: string;
  readonly shards: ReadonlyMap<string, SafetensorsFile>;
  /** Which shard holds a tensor, when an index says so. */
  readonly index: ReadonlyMap<string, string> | undefined;
}

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

/** Finds each parameter's file. @throws ModelFileError naming everything that does not fit */
function locate(files: WeightFiles, config: ModelConfig): Map<string, SafetensorsFile> {
  const { shards, index } = files;
  const shapes = parameterShapes(config);
  const found = new Map<string, SafetensorsFile>();
  const problems: string[] = [];
  for (const [name, shape] of shapes) {
    const shard = index ? shards.get(index.get(name) ?? "") : [...shards.values()][0];
    if (!shard?.has(name)) {
      problems.push(`missing ${name}${shard && index ? ` (not in ${index.get(name)})` : ""}`);
      continue;
    }
    const info = shard.info(name);
    if (info.shape.join() !== shape.join()) problems.push(`${name} is [${info.shape}], not [${shape}]`);
    else if (!ELEMENT_TYPES.includes(info.dtype)) {
      problems.push(`${name} is ${info.dtype}, not one of ${ELEMENT_TYPES.join(", ")}`);
    }
    found.set(name, shard);
  }
  const present = new Set([...shards.values()].flatMap((shard) => shard.names()));
  for (const name of present) {
    if (!shapes.has(name) && !isIgnored(name, config)) problems.push(`unexpected ${name}`);
  }
  if (problems.length > 0) {
    const more = problems.length > MAX_TOLD ? `; and ${problems.length - MAX_TOLD} more` : "";
    const told = problems.slice(0, MAX_TOLD).join("; ");
    throw new ModelFileError(files.label, `its tensors do not fit config.json: ${told}${more}`);
  }
  return found;
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
  if (quantize === undefined) return modelOf(config, await readWeights(dir, config, device, loading));
  const place = await quantizedPlace(dir, await weightFiles(dir), quantize, quantizedCache);
  const kept = await openQuantized(place);
  if (kept) return modelOf(config, await readKept(kept, config, device, loading));
  const tensors = await readWeights(dir, config, device, { signal });
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

function modelOf(config: ModelConfig, tensors: ReadonlyMap<string, Tensor>): QwenModel {
  return new QwenModel(config, (name) => tensors.get(name)!);
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

async function readWeights(
  dir: string,
  config: ModelConfig,
  device: Device,
  { signal, onProgress }: Loading,
): Promise<Map<string, Tensor>> {
  const files = await openWeights(dir);
  const tensors = new Map<string, Tensor>();
  try {
    const places = locate(files, config);
    for (const [name, file] of places) {
      // The event loop gets its turn, so that a signal can come.
      await setImmediate();
      signal?.throwIfAborted();
      tensors.set(name, read(file, name, device));
      onProgress?.(tensors.size, places.size);
    }
    return tensors;
  } catch (error) {
    for (const t of tensors.values()) t.dispose();
    throw error;
  } finally {
    for (const shard of files.shards.values()) shard.close();
  }
}

function read(file: SafetensorsFile, name: string, device: Device): Tensor {
  return scope(() => {
    const t = file.tensor(name, { device });
    return t.rank === 1 && t.dtype === "bf16" ? t.to("f32") : t;
  }).keep();
}
