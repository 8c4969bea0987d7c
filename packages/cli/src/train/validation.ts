import { findTroubles, questionKey, type TrainingExample } from "@tslm/data";
import { splitRows } from "@tslm/lora";
import { CommandError } from "../errors.ts";
import type { Sample } from "../recipe.ts";
import type { Context } from "../run.ts";
import { areConversations } from "../training-data.ts";
import { readExamples } from "./data.ts";
import type { TrainCommandOptions } from "./options.ts";

/** Rows to train on, and rows that training does not see. */
export interface DividedData {
  training: TrainingExample[];
  validation: TrainingExample[];
}

/**
 * Reads or splits off the validation data that the options ask for. Rows that ask the same stay on one side of a split,
 * and those of the samples on the side of training. Leaks from a file are told.
 */
export async function divideData(
  context: Context,
  examples: readonly TrainingExample[],
  samples: readonly Pick<Sample, "row">[],
  { validation: file, validationSplit: share, seed }: TrainCommandOptions,
): Promise<DividedData> {
  const { terminal } = context;
  if (share !== undefined) {
    const keep = samples.flatMap(({ row }) => (row === undefined ? [] : [row]));
    const { training, validation } = await splitRows(examples.map(questionKey), { share, seed, keep });
    terminal.say(`Validation: ${validation.length} of ${examples.length} rows are held out of training`);
    return { training: training.map((row) => examples[row]), validation: validation.map((row) => examples[row]) };
  }
  if (file === undefined) return { training: [...examples], validation: [] };
  const { examples: validation, format } = await readExamples(context, file);
  if (validation.length === 0) throw new CommandError(`${file} has no rows to validate with`);
  if (areConversations(validation) !== areConversations(examples)) {
    const [these, those] = areConversations(examples) ? ["conversations", "rows"] : ["rows", "conversations"];
    throw new CommandError(
      `${file} holds ${those} and the training data ${these}; bring validation data of the same kind`,
    );
  }
  terminal.say(`Validation: ${validation.length} rows of ${file} (${format})`);
  const { leaks } = findTroubles(examples, validation);
  if (leaks.length > 0) {
    terminal.warn(
      `${leaks.length} of ${validation.length} rows of ${file} are in the training data too, or ask what it asks, so their loss flatters; bun run data --check names them`,
    );
  }
  return { training: [...examples], validation };
}
