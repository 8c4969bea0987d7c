import { convertCsv, DEFAULT_INSTRUCTION } from "@tslm/data";
import { baseCommand, checked, notEmpty } from "../options.ts";
import { bytes, Progress } from "../progress.ts";
import type { Context } from "../run.ts";

/** Rows that a message names at most. */
const NAMED = 10;

/** `data`: cleans a CSV and writes Alpaca JSON, or the cleaned CSV for retrieval. */
export function data(context: Context) {
  return baseCommand(context, "data", "Clean the answers of a CSV and write training data.", [
    ["bun run data questions.csv train.json", "Alpaca JSON, with one instruction for all rows"],
    ["bun run data questions.csv train.json --keep-instruction", "with each row's own instruction"],
    ["bun run data questions.csv clean.csv --rag", "the same table with clean answers, for retrieval"],
  ])
    .argument("<input.csv>", "the CSV; it needs the columns input and output (with --rag only output)")
    .argument("<output>", "the file to write; its folder is made")
    .option("--rag", "write the cleaned CSV instead of Alpaca JSON")
    .option(
      "--instruction <text>",
      `the instruction of every row (default: "${DEFAULT_INSTRUCTION}")`,
      checked(notEmpty),
    )
    .option("--keep-instruction", "take each row's own instruction, from the column instruction")
    .action(async (input, output, { rag, instruction, keepInstruction, json }, command) => {
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
