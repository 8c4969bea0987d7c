import { fitsBlocks, type GgufEntry, isBlocks, type StoredType, type TensorSource, writeGguf } from "@tslm/tensor";
import type { ModelConfig } from "../config.ts";
import { parameterShapes } from "../model/parameters.ts";
import { PRECISE } from "../model/quantize.ts";
import type { ModelToWrite } from "../model/save.ts";
import { ggufMetadata } from "./metadata.ts";
import { ggufName } from "./names.ts";

/**
 * What a parameter is written as when most weights are `type`: biases and norms stay f32; with 4 and 5 bits the output
 * projection, keys and values keep 8 (see `quantizedType`); rows that are no whole blocks become f16.
 */
export function ggufType(name: string, shape: readonly number[], type: StoredType): StoredType {
  if (shape.length === 1) return "f32";
  const wanted = type !== "f16" && isBlocks(type) && PRECISE.test(name) ? "q8_0" : type;
  return fitsBlocks(wanted, shape) ? wanted : "f16";
}

/** The tensors of a model's GGUF file, by ggml's names. */
export function ggufSources(
  config: ModelConfig,
  read: ModelToWrite["read"],
  type: StoredType,
): Map<string, TensorSource> {
  const sources = new Map<string, TensorSource>();
  for (const [name, shape] of parameterShapes(config)) {
    sources.set(ggufName(name), { type: ggufType(name, shape, type), shape, read: () => read(name) });
  }
  return sources;
}

/**
 * Writes a model as a GGUF file that llama.cpp and what stands on it load, and `Qwen.load` too. The file is there whole
 * or not at all.
 *
 * @param options `name`: what the file says of itself; `metadata`: entries beside those of the model
 * @throws ModelFileError for a tokenizer that GGUF has no name for; TensorError when the file cannot be written
 */
export async function writeModelGguf(
  path: string,
  model: ModelToWrite,
  type: StoredType,
  { name, metadata = new Map() }: { name: string; metadata?: ReadonlyMap<string, GgufEntry> },
): Promise<void> {
  const entries = new Map([...ggufMetadata(model, name, type), ...metadata]);
  await writeGguf(path, ggufSources(model.config, model.read, type), entries);
}
