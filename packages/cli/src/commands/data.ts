import { Option } from "@commander-js/extra-typings";
import { convertCsv, DEFAULT_INSTRUCTION } from "@tslm/data";
import { LOSS_MASKS } from "@tslm/lora";
import { checkData } from "../check/check.ts";
import { baseCommand, checked, DEFAULT_MODEL, integer, notEmpty, option } from "../options.ts";
import { bytes, Progress } from "../progress.ts";
import type { Context } from "../run.ts";

/** Rows that a message names at most. */
const NAMED = 10;

/** `data`: cleans a CSV and writes Alpaca JSON, or the cleaned CSV for retrieval; or checks training data. */
export function data(context: Context) {
  return baseCommand(
    context,
    "data",
    "Clean the answers of a CSV and write training data, or check training data before it is trained on.",
    [
      ["bun run data questions.csv train.json", "Alpaca JSON, with one instruction for all rows"],
      ["bun run data questions.csv train.json --keep-instruction", "with each row's own instruction"],
      ["bun run data questions.csv clean.csv --rag", "the same table with clean answers, for retrieval"],
      ["bun run data --check train.json", "what will be trained, token by token, and what is wrong with it"],
      [
        "bun run data --check talks.jsonl --loss assistant --validation held-out.jsonl",
        "conversations; has training seen them?",
      ],
    ],
  )
    .argument("[input.csv]", "the CSV; it needs the columns input and output (with --rag only output)")
    .argument("[output]", "the file to write; its folder is made")
    .option("--rag", "write the cleaned CSV instead of Alpaca JSON")
    .option(
      "--instruction <text>",
      `the instruction of every row (default: "${DEFAULT_INSTRUCTION}")`,
      checked(notEmpty),
    )
    .option("--keep-instruction", "take each row's own instruction, from the column instruction")
    .addOption(
      option(
        "--check <file>",
        "write nothing, but say what training would make of this file (CSV, or JSON or JSONL: Alpaca, chat messages, ShareGPT, prompt and completion)",
        notEmpty,
      ).conflicts(["rag", "instruction", "keepInstruction"]),
    )
    .addOption(option("--validation <file>", "with --check: held-out data that training must not have seen", notEmpty))
    .addOption(
      option(
        "--model <name|dir>",
        `with --check: whose tokenizer counts (default: ${DEFAULT_MODEL} where it is on this computer, else demo)`,
        notEmpty,
      ),
    )
    .addOption(
      option("--max-length <n>", "with --check: where training cuts, in tokens (default: 512)", integer(2, 1_000_000)),
    )
    .addOption(
      new Option("--loss <tokens>", "with --check: what carries loss, as for train (default: full)").choices(
        LOSS_MASKS,
      ),
    )
    .addOption(option("--show <n>", "with --check: rows to show token by token (default: 3)", integer(0, 10_000)))
    .action(async (input, output, options, command) => {
      const { rag, instruction, keepInstruction, json, check, validation, model, maxLength, loss, show } = options;
      if (check !== undefined) {
        if (input !== undefined) {
          command.error("error: with '--check <file>' nothing is written; leave input and output out");
        }
        const defaults = { loss: loss ?? "full", maxLength: maxLength ?? 512, show: show ?? 3 };
        return checkData(context, { file: check, validation, model, ...defaults, json });
      }
      for (const [name, value] of Object.entries({ validation, model, "max-length": maxLength, loss, show })) {
        if (value !== undefined) command.error(`error: option '--${name}' needs '--check <file>'`);
      }
      if (input === undefined) return command.error("error: missing required argument 'input.csv'");
      if (output === undefined) return command.error("error: missing required argument 'output'");
      if (keepInstruction && instruction !== undefined)
        command.error("error: option '--keep-instruction' cannot be used with option '--instruction <text>'");
      if (rag && (keepInstruction || instruction !== undefined))
        command.error(
          "error: with '--rag' the table keeps its columns; leave '--instruction' and '--keep-instruction' out",
        );
      const { terminal, signal } = context;
      const progress = new Progress(terminal, "Cleaning");
      const report = await convertCsv({
        input,
        output,
        rag,
        instruction,
        keepInstruction,
        signal,
        onProgress: ({ bytesRead, totalBytes, rows }) =>
          progress.update(bytesRead / totalBytes, `${rows} rows, ${bytes(bytesRead)} of ${bytes(totalBytes)}`),
      }).finally(() => progress.stop());

      if (report.emptiedCount > 0) terminal.warn(describeEmptied(report.emptied, report.emptiedCount));
      if (json) {
        const { rows, emptied, emptiedCount, encoding, delimiter } = report;
        terminal.json({ output, rows, emptied, emptied_count: emptiedCount, encoding, delimiter });
      } else {
        terminal.print(`${output}: ${report.rows} ${report.rows === 1 ? "row" : "rows"}, read as ${report.encoding}`);
      }
    });
}

function describeEmptied(rows: readonly number[], count: number): string {
  const listed = rows.slice(0, NAMED).join(", ");
  const more = count > NAMED ? ` and ${count - NAMED} more` : "";
  return `nothing is left of the output of ${count === 1 ? "row" : "rows"} ${listed}${more} after cleaning; fill or remove them`;
}
