import { type Device, type SafetensorsFile, scope, type Tensor } from "@tslm/tensor";
import type { ModelConfig } from "../config.ts";
import { ModelFileError } from "../errors.ts";
import type { Loading } from "../gguf/weights.ts";
import { nextTurn } from "../turn.ts";
import { QwenModel } from "./model.ts";
import { parameterShapes } from "./parameters.ts";

/** Element types of weights, as safetensors names them. F16 becomes bf16 or f32, whichever holds it exactly. */
const ELEMENT_TYPES = ["BF16", "F32", "F16"];
/** Problems told in an error's message; a wrong config makes every tensor one. */
const MAX_TOLD = 40;

/** Buffers of old checkpoints that are computed anew, and the head's copy where it is the embedding. */
function isIgnored(name: string, config: ModelConfig): boolean {
  return name.endsWith(".rotary_emb.inv_freq") || (config.tieWordEmbeddings && name === "lm_head.weight");
}

/** Where a model's weights lie. */
export interface WeightFiles {
  /** What errors call the whole: the one file, or the index. */
  readonly label: string;
  readonly shards: ReadonlyMap<string, SafetensorsFile>;
  /** Which shard holds a tensor, when an index says so. */
  readonly index: ReadonlyMap<string, string> | undefined;
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

/**
 * Reads all parameters, frozen; matrices stay as they are, biases and norms become f32. Closes the files.
 *
 * @throws ModelFileError naming every missing, unexpected and mis-shaped tensor
 */
export async function readWeights(
  files: WeightFiles,
  config: ModelConfig,
  device: Device,
  { signal, onProgress }: Loading = {},
): Promise<Map<string, Tensor>> {
  const tensors = new Map<string, Tensor>();
  try {
    const places = locate(files, config);
    for (const [name, file] of places) {
      // The event loop gets its turn, so that a signal can come.
      await nextTurn();
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

/** The model of parameters by their names. */
export function modelOf(config: ModelConfig, tensors: ReadonlyMap<string, Tensor>): QwenModel {
  return new QwenModel(config, (name) => tensors.get(name)!);
}
