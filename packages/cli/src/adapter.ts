import { basename, resolve } from "node:path";
import {
  baseMismatch,
  type Lora,
  loadAdapter,
  type PromptFormat,
  promptFormat,
  readAdapterConfig,
  readPrompt,
} from "@tslm/lora";
import { HubError, type Tokenizer } from "@tslm/qwen";
import { CommandError } from "./errors.ts";
import { type LocatedModel, locateModel, type OpenModel, openModel } from "./model.ts";
import type { ModelOptions } from "./options.ts";
import type { Context } from "./run.ts";

/** An adapter in memory. */
export interface OpenAdapter {
  /** Its folder's name. */
  readonly name: string;
  readonly dir: string;
  /** Attached to its model only while it is used. */
  readonly lora: Lora;
  /** How training put a question; the default where the folder does not say. */
  readonly prompt: PromptFormat;
  /** Why its answers may be wrong on this model, if it was trained on another one. */
  readonly mismatch: string | undefined;
}

/** What an adapter is called: its folder's name. */
export function adapterName(dir: string): string {
  return basename(resolve(dir));
}

/** A model with the adapters that were asked for, none of them attached. */
export interface OpenModelWithAdapters extends OpenModel {
  readonly adapters: readonly OpenAdapter[];
  /** How to put a question without an adapter: as the model says, into which one was merged by `export`, or the default. */
  readonly prompt: PromptFormat;
}

/** Says which of the adapters were trained on another model. */
export function warnOfOtherBases(
  { terminal }: Pick<Context, "terminal">,
  adapters: readonly Pick<OpenAdapter, "dir" | "mismatch">[],
): void {
  for (const { dir, mismatch } of adapters) {
    if (mismatch !== undefined) terminal.warn(`the adapter in ${dir} ${mismatch}`);
  }
}

/**
 * Finds the model for adapters: the one that was named, else the one that the first adapter says it belongs to, else the
 * default one.
 *
 * @throws AdapterError when a folder holds no adapter; CommandError when the adapter's model cannot be had
 */
export async function locateModelOf(
  context: Context,
  dirs: readonly string[],
  name: string | undefined,
): Promise<LocatedModel> {
  const configs = await Promise.all(dirs.map((dir) => readAdapterConfig(dir)));
  const base = configs[0]?.base_model_name_or_path;
  if (name !== undefined || !base) return locateModel(context, name);
  try {
    return await locateModel(context, base);
  } catch (cause) {
    if (!(cause instanceof HubError)) throw cause;
    const problem = `the adapter in ${dirs[0]} was made for the model ${base}: ${cause.message}`;
    throw new CommandError(`${problem}; or give that model's folder with --model DIR`, { cause });
  }
}

/**
 * Loads a model and its adapters; see `locateModelOf`.
 *
 * @throws AdapterError when an adapter cannot be read or belongs to another model
 */
export async function openModelWithAdapters(
  context: Context,
  dirs: readonly string[],
  options: ModelOptions,
): Promise<OpenModelWithAdapters> {
  const prompts = await Promise.all(dirs.map((dir) => readPrompt(dir)));
  const model = await openModel(context, await locateModelOf(context, dirs, options.model), options);
  try {
    const adapters: OpenAdapter[] = [];
    for (const [i, dir] of dirs.entries()) {
      context.signal.throwIfAborted();
      const lora = await loadAdapter(dir, model.qwen.model);
      lora.detach();
      const mismatch = await baseMismatch(prompts[i], model.qwen.model);
      adapters.push({ name: adapterName(dir), dir, lora, prompt: prompts[i] ?? promptFormat(model.name), mismatch });
    }
    return { ...model, adapters, prompt: (await readPrompt(model.dir)) ?? promptFormat(model.name) };
  } catch (error) {
    await model.dispose();
    throw error;
  }
}

/** The id of the token that ends an answer. @throws CommandError when the model has no such token */
export function endTokenOf(tokenizer: Tokenizer, { end_token }: PromptFormat): number {
  const id = tokenizer.tokenToId(end_token);
  if (id !== undefined) return id;
  throw new CommandError(`this model has no token ${end_token}, which ends an answer; choose a Qwen2 or Qwen2.5 model`);
}
