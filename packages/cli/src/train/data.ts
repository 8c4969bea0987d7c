import { convertCsv, openExamples, type TrainingExample } from "@tslm/data";
import { type PromptFormat, type SequenceReport, trainingSequences } from "@tslm/lora";
import type { Qwen } from "@tslm/qwen";
import { endTokenOf } from "../adapter.ts";
import { CommandError } from "../errors.ts";
import type { Context } from "../run.ts";
import { areConversations, FORMAT_NAMES } from "../training-data.ts";
import type { TrainCommandOptions } from "./options.ts";

/** The data that ships with the program. */
export const DEFAULT_DATA = "data/input/lora_train_data.csv";
/** Where the default data goes on its way to training. */
export const CONVERTED_DATA = "data/output/train_data.json";

/** Reads a file of examples; `format` is what it is called. */
export async function readExamples(
  { signal }: Context,
  path: string,
): Promise<{ examples: TrainingExample[]; format: string }> {
  const opened = await openExamples(path, { signal });
  const examples: TrainingExample[] = [];
  for await (const { example } of opened.rows()) examples.push(example);
  return { examples, format: FORMAT_NAMES[opened.format] };
}

/** Reads the training examples and says what they are. */
export async function readData(context: Context, file: string): Promise<TrainingExample[]> {
  const { terminal, signal } = context;
  if (file !== DEFAULT_DATA) {
    const { examples, format } = await readExamples(context, file);
    terminal.say(
      `Data: ${examples.length} ${areConversations(examples) ? "conversations" : "rows"} of ${file} (${format})`,
    );
    return examples;
  }
  if (!(await Bun.file(DEFAULT_DATA).exists())) {
    throw new CommandError(
      `${DEFAULT_DATA}: cannot be read: there is no such file here; run it in the program's folder, or give data of your own with --data FILE`,
    );
  }
  const { rows, emptiedCount } = await convertCsv({ input: DEFAULT_DATA, output: CONVERTED_DATA, signal });
  if (emptiedCount > 0) terminal.warn(`${emptiedCount} rows have no output after cleaning`);
  terminal.say(`Data: ${rows} rows of ${file}, cleaned into ${CONVERTED_DATA}`);
  return (await readExamples(context, CONVERTED_DATA)).examples;
}

/** Makes sequences of the rows and says what was cut or left out. */
export function prepare(
  { terminal }: Context,
  { tokenizer, config }: Qwen,
  rows: readonly TrainingExample[],
  prompt: PromptFormat,
  { loss, maxLength }: TrainCommandOptions,
  what = "sequences",
): SequenceReport {
  const longest = Math.min(maxLength, config.maxPositionEmbeddings);
  if (longest < maxLength) terminal.warn(`sequences are cut at ${longest} tokens, for which this model has positions`);
  const report = trainingSequences(rows, {
    prompt: prompt.format === 1 ? prompt : undefined,
    chat: tokenizer,
    encode: (text) => tokenizer.encode(text),
    endTokenId: endTokenOf(tokenizer, prompt),
    loss,
    maxLength: longest,
  });
  const { truncated, dropped, unanswered } = report;
  if (truncated.length > 0) {
    const most = truncated.reduce((n, { length }) => Math.max(n, length), 0);
    terminal.warn(
      `${truncated.length} of ${rows.length} ${what} are longer than ${longest} tokens (up to ${most}) and were cut; raise --max-length to learn their ends`,
    );
  }
  if (dropped.length > 0) terminal.warn(`${dropped.length} of them were left out: the cut took their whole answer`);
  if (unanswered.length > 0) {
    terminal.warn(
      `${unanswered.length} of ${rows.length} conversations were left out: no answer in them is to be learned`,
    );
  }
  if (areConversations(rows) && loss === "full") {
    terminal.say("Every token is learned, the users' words too; with --loss assistant only the answers are.");
  }
  return report;
}

/** SHA-256 of a file, for the record of what was trained on. */
export async function sha256Of(path: string): Promise<string> {
  const hash = new Bun.CryptoHasher("sha256");
  for await (const chunk of Bun.file(path).stream()) hash.update(chunk);
  return hash.digest("hex");
}
