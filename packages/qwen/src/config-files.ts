import { join } from "node:path";
import { type GenerationConfig, type ModelConfig, parseGenerationConfig, parseModelConfig } from "./config.ts";
import { ModelFileError } from "./errors.ts";
import { readJsonFile } from "./json-file.ts";

const MAX_CONFIG_BYTES = 1 << 20;

/**
 * Reads `config.json` of a model folder.
 *
 * @throws ModelFileError if it is missing, is not JSON, or describes a model this package cannot run
 */
export async function loadModelConfig(dir: string): Promise<ModelConfig> {
  const file = join(dir, "config.json");
  const value = await readJsonFile(file, MAX_CONFIG_BYTES);
  if (value === undefined) {
    throw new ModelFileError(
      file,
      "does not exist; a model folder holds config.json, tokenizer.json and *.safetensors",
    );
  }
  return parseModelConfig(value, file);
}

/** Reads `generation_config.json` of a model folder; a missing file gives the defaults. */
export async function loadGenerationConfig(dir: string, config: ModelConfig): Promise<GenerationConfig> {
  const file = join(dir, "generation_config.json");
  return parseGenerationConfig(await readJsonFile(file, MAX_CONFIG_BYTES), config, file);
}
