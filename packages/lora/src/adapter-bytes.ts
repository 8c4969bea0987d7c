import { noGrad, scope, serializeSafetensors, type Tensor } from "@tslm/tensor";
import { baseFingerprint } from "./base-fingerprint.ts";
import { formatLoraConfig, savedConfig } from "./config.ts";
import type { Lora } from "./lora.ts";
import { formatPrompt, PROMPT_FILE, type PromptFormat } from "./prompt.ts";

/** PEFT's names of an adapter's files. */
export const CONFIG_FILE = "adapter_config.json";
export const WEIGHTS_FILE = "adapter_model.safetensors";

/** What is saved beside the adapter's tensors, besides a record of the run. */
export interface BytesOptions {
  /** Name or folder of the base model, for `base_model_name_or_path`; what the configuration says unless given. */
  baseModel?: string;
  /** Written as `prompt.json`. */
  prompt?: PromptFormat;
}

/**
 * An adapter in PEFT's format, by the names of its files: what `saveAdapter` writes, for those who have no folders to write
 * to, as a page in a browser.
 */
export async function adapterBytes(lora: Lora, options: BytesOptions = {}): Promise<Record<string, Uint8Array>> {
  const text = new TextEncoder();
  return {
    [CONFIG_FILE]: text.encode(configText(lora, options)),
    [WEIGHTS_FILE]: await withSavedTensors(lora, (tensors) => serializeSafetensors(tensors, { format: "pt" })),
    ...(options.prompt && { [PROMPT_FILE]: text.encode(await promptText(lora, options.prompt)) }),
  };
}

/** The text of `adapter_config.json`. */
export function configText({ config }: Lora, { baseModel }: BytesOptions): string {
  const base_model_name_or_path = baseModel ?? config.base_model_name_or_path;
  return formatLoraConfig(savedConfig({ ...config, base_model_name_or_path }));
}

/** The text of `prompt.json`, which tells the base model too. */
export async function promptText(lora: Lora, prompt: PromptFormat): Promise<string> {
  return formatPrompt({ ...prompt, base_fingerprint: await baseFingerprint(lora.model) });
}

/** Runs `body` with the tensors that are saved, by PEFT's keys; those made for it are freed afterwards. */
export async function withSavedTensors<T>(lora: Lora, body: (tensors: Map<string, Tensor>) => Promise<T>): Promise<T> {
  const own = new Set(lora.parameters());
  const weights = scope(() => noGrad(() => [...lora.savedTensors()]));
  try {
    return await body(new Map(weights));
  } finally {
    for (const [, t] of weights) if (!own.has(t)) t.dispose();
  }
}
