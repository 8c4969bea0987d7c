import type { LossMask } from "@tslm/lora";
import { CommandError } from "../errors.ts";
import type { Context } from "../run.ts";
import { type Inspection, inspect } from "./inspect.ts";
import { showInspection } from "./show.ts";
import { locateTokenizer } from "./tokenizer.ts";

export interface CheckOptions {
  readonly file: string;
  readonly validation?: string;
  readonly model?: string;
  readonly loss: LossMask;
  readonly maxLength: number;
  /** Rows to show token by token. */
  readonly show: number;
  readonly json?: boolean;
}

/**
 * `data --check`: what would be trained, and what is wrong with it.
 * @throws CommandError when nothing of the file can be trained, after all has been told
 */
export async function checkData(context: Context, options: CheckOptions): Promise<void> {
  const { terminal } = context;
  const located = await locateTokenizer(context, options.model);
  const maxLength = Math.min(options.maxLength, located.positions);
  if (maxLength < options.maxLength) {
    terminal.warn(`sequences are cut at ${maxLength} tokens, for which this model has positions`);
  }
  const { file, validation, loss } = options;
  const inspection = await inspect(context, located, { file, validation, loss, maxLength, shown: options.show });
  if (options.json) {
    const { name, source } = located;
    terminal.json(toJson(inspection, { tokenizer: { name, source }, loss, max_length: maxLength }));
  } else {
    const colors = terminal.columns !== undefined && terminal.colors.isColorSupported ? terminal.colors : undefined;
    terminal.print(showInspection(inspection, { tokenizer: located.name, loss, maxLength, validation, colors }));
  }
  if (inspection.trainable === 0) {
    const { examples, cut, unanswered } = inspection;
    const reasons = [
      unanswered.length > 0 ? `${unanswered.length} of ${examples} rows have no answer to learn` : "",
      cut.length > 0 && unanswered.length < examples ? `--max-length ${maxLength} cuts the answers off` : "",
    ];
    throw new CommandError(
      `nothing of ${file} can be trained: ${reasons.filter((reason) => reason !== "").join(", and ")}`,
    );
  }
}

function toJson(inspection: Inspection, settings: object): object {
  const { file, shownRows, conflicts, leaks } = inspection;
  return {
    file: file.path,
    format: file.format,
    encoding: file.encoding,
    delimiter: file.delimiter,
    ...settings,
    examples: inspection.examples,
    unused: inspection.unused,
    validation_examples: inspection.validation,
    trainable: inspection.trainable,
    tokens: inspection.tokens,
    predicted: inspection.predicted,
    lengths: inspection.lengths,
    cut: inspection.cut,
    answer_cut: inspection.answerCut,
    answer_lost: inspection.answerLost,
    unanswered: inspection.unanswered,
    empty_answers: inspection.emptyAnswers,
    duplicates: inspection.duplicates,
    conflicts,
    leaks: leaks.map(({ validationRow, row, same }) => ({ validation_row: validationRow, row, same })),
    rows: shownRows.map(({ row, line, length, pieces }) => ({ row, line, length, tokens: pieces })),
  };
}
