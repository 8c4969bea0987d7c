import { mkdir, readdir, stat, statfs, writeFile } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { createFolder, loadAdapter, type PromptFormat, promptFormat, readPrompt, readRecord } from "@tslm/lora";
import { Qwen } from "@tslm/qwen";
import type { StoredType } from "@tslm/tensor";
import { endTokenOf, type OpenModelWithAdapters, openModelWithAdapters, warnOfOtherBases } from "../adapter.ts";
import { CommandError, UsageError } from "../errors.ts";
import { type Check, check, percent } from "../export/check.ts";
import { answers, comparisonPrompts, measure } from "../export/compare.ts";
import { type Contents, contentsOf } from "../export/contents.ts";
import { ADAPTER_FORMATS, type ExportOptions, exportCommand, FORMATS } from "../export/options.ts";
import { bytes, Progress } from "../progress.ts";
import type { Context } from "../run.ts";
import { printable } from "../terminal.ts";

/** Room for what stands beside the weights: tokenizer, cards. */
const SIDE_BYTES = 16e6;

/** `export`: a fine-tuned model, or its adapter, for other tools. */
export function exportModel(context: Context) {
  return exportCommand(context).action(async (options) => {
    const { terminal } = context;
    context.kept = `Nothing was written to ${options.out}.`;
    const type = typeOf(options);
    await checkOut(options);
    const dirs = options.adapter === undefined ? [] : [options.adapter];
    const open = await openModelWithAdapters(context, dirs, { ...options, quantize: undefined });
    try {
      const { result, shown } = await exportTo(context, open, options, type);
      if (options.json) terminal.json(result);
      else for (const line of shown) terminal.print(line);
    } finally {
      await open.dispose();
    }
  });
}

/** The type of the weights. @throws UsageError for one that the format cannot hold, and without an adapter where one is needed */
function typeOf({ format, quantize, adapter }: ExportOptions): StoredType {
  const types: readonly StoredType[] = FORMATS[format];
  if (adapter === undefined && ADAPTER_FORMATS.includes(format)) {
    throw new UsageError(`--format ${format} writes an adapter: say which with --adapter PATH`);
  }
  if (quantize === undefined) return types[0];
  if (types.includes(quantize)) return quantize;
  throw new UsageError(`--format ${format} cannot be ${quantize}; it can be ${types.join(", ")}`);
}

async function checkOut({ out, overwrite }: ExportOptions): Promise<void> {
  if (out.toLowerCase().endsWith(".gguf")) {
    throw new UsageError(`--out is a folder, in which the GGUF file gets the folder's name; not ${out}`);
  }
  const found = await stat(out).catch(() => undefined);
  if (found && !found.isDirectory()) throw new CommandError(`${out} is a file; --out needs the path of a folder`);
  if (found && !overwrite && (await readdir(out)).length > 0) {
    throw new CommandError(`${out} is not empty; choose another folder, or replace what is in it with --overwrite`);
  }
}

/** @throws CommandError where the disk has too little room */
async function checkSpace(out: string, needed: number): Promise<void> {
  const parent = dirname(resolve(out));
  await mkdir(parent, { recursive: true });
  const { bavail, bsize } = await statfs(parent);
  const free = bavail * bsize;
  if (free >= needed + SIDE_BYTES) return;
  throw new CommandError(
    `${out}: the disk has ${bytes(free)} left and ${bytes(needed + SIDE_BYTES)} are needed; free some space, choose another place, or another type with --quantize`,
  );
}

async function exportTo(context: Context, open: OpenModelWithAdapters, options: ExportOptions, type: StoredType) {
  const { terminal, signal } = context;
  const { format, out } = options;
  const [adapter] = open.adapters;
  const { qwen } = open;
  const prompt = options.adapter === undefined ? undefined : await readPrompt(options.adapter);
  const record = options.adapter === undefined ? undefined : await readRecord(options.adapter);
  if (adapter?.mismatch !== undefined && !options.anyBase) {
    const told = `the adapter in ${adapter.dir} ${adapter.mismatch}`;
    throw new CommandError(`${told}; or write it all the same with --any-base`);
  }
  warnOfOtherBases(context, open.adapters);
  if (adapter && prompt === undefined) {
    terminal.say(
      "The adapter does not say how its questions were put (there is no prompt.json): what is written keeps the chat template of its base model.",
    );
  }

  const asked = prompt ?? promptFormat(open.name);
  const questions = options.question ?? [];
  const prompts = comparisonPrompts(qwen, asked, questions);
  const base = adapter && (await measure(qwen, prompts, signal));
  adapter?.lora.attach();
  const wanted = await measure(qwen, prompts, signal);
  if (wanted.logits.some((logits) => !logits.every(Number.isFinite))) {
    const which = adapter ? `with the adapter in ${adapter.dir} the model` : "the model";
    throw new CommandError(
      `${which} gives no numbers (NaN or infinity), so there is nothing to export; train it again with a lower --lr`,
    );
  }
  const ends = endTokens(qwen, asked);
  const before = await answers(qwen, prompts.slice(0, questions.length), ends, signal);
  adapter?.lora.detach();

  const progress = new Progress(terminal, "Writing");
  const contents = contentsOf({
    ...{ format, type, out, open, adapter, prompt, record },
    onProgress(written) {
      signal.throwIfAborted();
      progress.update(written / contents.bytes, `${bytes(written)} of ${bytes(contents.bytes)}`);
    },
  });
  await checkSpace(out, contents.bytes);
  const again = async (folder: string) => {
    progress.stop();
    signal.throwIfAborted();
    terminal.say("Loading it again to compare.");
    const load = ADAPTER_FORMATS.includes(format) ? withAdapter : withModel;
    return load(open, join(folder, contents.weights), async (loaded) => {
      const found = await measure(loaded, prompts, signal);
      const after = await answers(loaded, prompts.slice(0, questions.length), ends, signal);
      return { checked: check(type, { wanted, base, found }), after };
    });
  };
  try {
    const { checked, after } = await context.whole(() => writeChecked(resolve(out), contents, again));
    return told(context, options, { type, contents, checked, questions, before, after });
  } finally {
    progress.stop();
  }
}

/** End tokens as `ask` has them. */
function endTokens(qwen: Qwen, prompt: PromptFormat): number[] {
  return [...new Set([endTokenOf(qwen.tokenizer, prompt), ...qwen.generationConfig.eosTokenIds])];
}

/** What the second loading gave. */
interface Again {
  readonly checked: Check;
  readonly after: readonly string[];
}

/** Writes the files beside their place, loads them again, and moves them there if they are right. */
async function writeChecked(
  out: string,
  { files, card }: Contents,
  again: (folder: string) => Promise<Again>,
): Promise<Again> {
  let result: Again | undefined;
  const readme = async (path: string): Promise<void> => {
    result = await again(dirname(path));
    await writeFile(path, card(result.checked));
  };
  await createFolder(out, { ...files, "README.md": readme });
  return result!;
}

/** Runs `use` with the model that was written. */
async function withModel<T>(open: OpenModelWithAdapters, path: string, use: (qwen: Qwen) => Promise<T>): Promise<T> {
  using qwen = await Qwen.load(path, { device: open.device });
  return await use(qwen);
}

/** Runs `use` with the adapter that was written, on the base in memory. */
async function withAdapter<T>(
  { qwen }: OpenModelWithAdapters,
  path: string,
  use: (qwen: Qwen) => Promise<T>,
): Promise<T> {
  using _ = await loadAdapter(path, qwen.model);
  return await use(qwen);
}

interface Outcome extends Again {
  readonly type: StoredType;
  readonly contents: Contents;
  readonly questions: readonly string[];
  readonly before: readonly string[];
}

function told(
  { terminal }: Context,
  { out, format }: ExportOptions,
  { type, contents, checked, questions, before, after }: Outcome,
) {
  const folder = resolve(out);
  const { largest, relative, limit, fromBase, sameToken, prompts } = checked;
  const compared = questions.map((question, i) => ({ question, before: before[i], after: after[i] }));
  for (const { question, before, after } of compared) {
    if (before === after) continue;
    terminal.warn(`${printable(question)}: before ${JSON.stringify(before)}, from the file ${JSON.stringify(after)}`);
  }
  terminal.say(
    `Loaded again: the largest difference of a logit is ${largest.toPrecision(3)}, in all ${percent(relative)} of their spread (up to ${percent(limit)} is rounding to ${type}); the same next token after ${sameToken} of ${prompts} texts.`,
  );
  const names = [...Object.keys(contents.files), "README.md"];
  return {
    shown: [folder, ...names.map((name) => `  ${name}`)],
    result: {
      ...{ format, type, out: folder, files: names },
      check: {
        ...{ texts: prompts, largest_difference: largest, relative_difference: relative, limit },
        ...{ relative_difference_from_base: fromBase ?? null, same_token: sameToken },
      },
      answers: compared,
    },
  };
}
