import {
  ggufModelConfig,
  ggufTokenizer,
  HubError,
  loadModelConfig,
  loadTokenizer,
  resolveModel,
  type Tokenizer,
} from "@tslm/qwen";
import { openGguf } from "@tslm/tensor";
import { CommandError } from "../errors.ts";
import { DEMO, type LocatedModel, locateModel } from "../model.ts";
import { DEFAULT_MODEL } from "../options.ts";
import type { Context } from "../run.ts";

/** A model's tokenizer without its weights. */
export interface LocatedTokenizer extends LocatedModel {
  readonly tokenizer: Tokenizer;
  /** Longest sequence that the model has positions for. */
  readonly positions: number;
}

/**
 * The tokenizer of a model that is on this computer; nothing is downloaded. Where none was named and the default one is not
 * there, it is the demo model's, and that is said.
 *
 * @throws CommandError when the model that was named is not on this computer
 */
export async function locateTokenizer(context: Context, name: string | undefined): Promise<LocatedTokenizer> {
  const located = await locate(context, name);
  const { dir, source } = located;
  if (source === "gguf") {
    using file = await openGguf(dir);
    const config = ggufModelConfig(file);
    return { ...located, tokenizer: ggufTokenizer(file, config.vocabSize), positions: config.maxPositionEmbeddings };
  }
  const config = await loadModelConfig(dir);
  const tokenizer = await loadTokenizer(dir, { vocabSize: config.vocabSize });
  return { ...located, tokenizer, positions: config.maxPositionEmbeddings };
}

async function locate(context: Context, name: string | undefined): Promise<LocatedModel> {
  if (name === DEMO) return locateModel(context, DEMO);
  const wanted = name ?? DEFAULT_MODEL;
  try {
    const { dir, source } = await resolveModel(wanted, { download: false, signal: context.signal });
    return { dir, source, name: source === "folder" || source === "gguf" ? dir : wanted };
  } catch (cause) {
    if (!(cause instanceof HubError) || cause.code !== "not-found") throw cause;
    if (name !== undefined) {
      const problem = `${name} is not on this computer, and a check downloads nothing`;
      throw new CommandError(`${problem}; run \`bun run download ${name}\` first, or give another --model`, { cause });
    }
    context.terminal.warn(
      `${DEFAULT_MODEL} is not on this computer: the tokens are counted by the bundled demo model's tokenizer, and the real one's numbers will differ`,
    );
    return locateModel(context, DEMO);
  }
}
