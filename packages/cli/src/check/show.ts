import type { LossMask } from "@tslm/lora";
import type { Colors } from "../terminal.ts";
import { printable } from "../terminal.ts";
import { FORMAT_NAMES } from "../training-data.ts";
import type { Inspection, RowPlace, ShownRow } from "./inspect.ts";
import type { Piece } from "./pieces.ts";

/** How an inspection is told. */
export interface ShowOptions {
  readonly tokenizer: string;
  readonly loss: LossMask;
  readonly maxLength: number;
  readonly validation?: string;
  /** Of stdout; undefined where it is no screen: brackets then take the place of colour. */
  readonly colors: Colors | undefined;
}

/** Rows or questions that a finding names at most. */
const NAMED = 10;
/** Pieces of a row shown from its start and from its end, where it is longer. */
const SHOWN_PIECES = 300;
const WIDEST_BAR = 40;

const LOSS_TEXT: Readonly<Record<LossMask, string>> = {
  full: "every token",
  completion: "the answer and its end token (of a conversation the last answer's)",
  assistant: "every answer and its end token",
};

/** What training would do with a file, for people. */
export function showInspection(inspection: Inspection, options: ShowOptions): string {
  const { file, examples } = inspection;
  const table = file.format === "csv" ? `, ${file.encoding}, ${nameDelimiter(file.delimiter)} between the cells` : "";
  const blocks = [
    `${file.path}: ${count(examples, "row")} (${FORMAT_NAMES[file.format]}${table})\n` +
      `Tokenizer: ${options.tokenizer}. Loss on ${LOSS_TEXT[options.loss]} (--loss ${options.loss}).${showUnused(inspection)}`,
    ...showRows(inspection.shownRows, options),
    showLengths(inspection, options),
    showFindings(inspection, options),
  ];
  return blocks.join("\n\n");
}

function showUnused({ unused, examples, file }: Inspection): string {
  const fields = Object.entries(unused);
  if (fields.length === 0) return "";
  const names = fields.map(([name, rows]) => `${clip(name)}${rows < examples ? ` (in ${count(rows, "row")})` : ""}`);
  return `\nNot used: the ${file.format === "csv" ? "column" : "field"}${fields.length === 1 ? "" : "s"} ${listed(names)}.`;
}

function nameDelimiter(delimiter: string | undefined): string {
  return delimiter === "\t" ? "tabs" : `"${delimiter}"`;
}

function count(n: number, noun: string): string {
  return `${n.toLocaleString("en-US")} ${noun}${n === 1 ? "" : "s"}`;
}

function showRows(rows: readonly ShownRow[], { colors }: ShowOptions): string[] {
  if (rows.length === 0) return [];
  const joined = rows.some(({ pieces }) => pieces.some(({ ids }) => ids.length > 1));
  const legend = [
    "Token by token",
    colors ? `in ${colors.green("green")} what carries loss` : "in [brackets] what carries loss",
    joined ? "a small number counts the tokens of characters that are cut over several" : "",
  ];
  return [`${legend.filter((part) => part !== "").join("; ")}:`, ...rows.map((row) => showRow(row, colors))];
}

function showRow({ row, line, pieces, length }: ShownRow, colors: Colors | undefined): string {
  const tokens = pieces.reduce((n, { ids }) => n + ids.length, 0);
  const carry = pieces.reduce((n, { ids, loss }) => n + (loss ? ids.length : 0), 0);
  const cut = length > tokens ? `\n  (cut here: ${count(length - tokens, "more token")} will not be seen)` : "";
  const isLong = pieces.length > 2 * SHOWN_PIECES;
  const text = isLong
    ? `${join(pieces.slice(0, SHOWN_PIECES), colors)}\n(${pieces.length - 2 * SHOWN_PIECES} left out)\n${join(pieces.slice(-SHOWN_PIECES), colors)}`
    : join(pieces, colors);
  const shown = text.trimEnd().replaceAll("\n", "\n  ");
  return `Row ${row}, line ${line}: ${count(tokens, "token")}, ${carry} with loss\n  ${shown}${cut}`;
}

const SMALL = "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079";

function join(pieces: readonly Piece[], colors: Colors | undefined): string {
  let text = "";
  pieces.forEach((piece, i) => {
    const before = pieces[i - 1]?.loss ?? false;
    const after = pieces[i + 1]?.loss ?? false;
    const number = [...String(piece.ids.length)].map((digit) => SMALL[Number(digit)]).join("");
    const shown = printable(piece.text).replaceAll("\n", "\u23ce\n") + (piece.ids.length > 1 ? number : "");
    if (colors) text += piece.loss ? colors.green(shown) : shown;
    else text += `${piece.loss && !before ? "[" : ""}${shown}${piece.loss && !after ? "]" : ""}`;
    // A line break separates enough.
    if (i < pieces.length - 1 && !shown.endsWith("\n")) text += colors ? colors.dim("\u00b7") : "\u00b7";
  });
  return text;
}

function showLengths({ lengths, tokens, predicted, trainable }: Inspection, { maxLength }: ShowOptions): string {
  const most = Math.max(...lengths.histogram.map((bucket) => bucket.count));
  const name = ({ from, to }: { from: number; to: number }): string => (from === to ? `${from}` : `${from}-${to}`);
  const width = Math.max(...lengths.histogram.map((bucket) => name(bucket).length));
  const bars = lengths.histogram.map((bucket) => {
    const bar = "\u2588".repeat(Math.ceil((bucket.count / most) * WIDEST_BAR));
    const over = bucket.from > maxLength && bucket.count > 0 ? "  cut" : "";
    return `  ${name(bucket).padStart(width)}  ${bar}${bar === "" ? "" : " "}${bucket.count}${over}`;
  });
  const share = tokens === 0 ? 0 : Math.round((100 * predicted) / tokens);
  return [
    `Lengths in tokens: min ${lengths.min}, median ${lengths.median}, max ${lengths.max}`,
    ...bars,
    `To train on: ${count(trainable, "row")}, ${count(tokens, "token")}, ${predicted.toLocaleString("en-US")} with loss (${share}%)`,
  ].join("\n");
}

function showFindings(inspection: Inspection, options: ShowOptions): string {
  const lines = findingsOf(inspection, options);
  if (lines.length === 0) return "No findings.";
  return [`Findings:`, ...lines.map((line) => `- ${line}`)].join("\n");
}

/** A sentence or two for each kind of trouble: what, where, and what to do. */
export function findingsOf(
  inspection: Inspection,
  { maxLength, loss, validation }: Pick<ShowOptions, "maxLength" | "loss" | "validation">,
): string[] {
  const { cut, answerCut, answerLost, unanswered, emptyAnswers, duplicates, conflicts, leaks } = inspection;
  const lines: string[] = [];
  if (cut.length > 0) {
    const longest = cut.reduce((n, { length }) => Math.max(n, length), 0);
    lines.push(
      `${count(cut.length, "row")} longer than ${maxLength} tokens (up to ${longest}) will be cut: ${places(cut)}; raise --max-length or shorten them`,
    );
  }
  if (answerCut.length > 0) {
    lines.push(`${ofThem(answerCut.length, "an answer's end, and so when to stop")}: ${places(answerCut)}`);
  }
  if (answerLost.length > 0) {
    const then = loss === "full" ? "only the question is trained on" : "nothing is left to learn, so it is left out";
    lines.push(`${ofThem(answerLost.length, "the whole answer")}: ${places(answerLost)}; ${then}`);
  }
  if (unanswered.length > 0) {
    const then = loss === "full" ? "only other turns are trained on" : "they are left out";
    lines.push(`${count(unanswered.length, "row")} without an answer to learn: ${places(unanswered)}; ${then}`);
  }
  if (emptyAnswers.length > 0) {
    lines.push(
      `${count(emptyAnswers.length, "row")} with an empty answer: ${numbers(emptyAnswers)}; the model would learn to say nothing: fill or remove them`,
    );
  }
  if (duplicates.length > 0) {
    const groups = listed(duplicates.map((rows) => numbers(rows).replaceAll(", ", " = ")));
    lines.push(
      `${count(duplicates.length, "group")} of rows that say the same: ${groups}; remove the copies, or mean them`,
    );
  }
  if (conflicts.length > 0) {
    const shown = conflicts.slice(0, NAMED).map(
      ({ question, answers }) =>
        `\n    ${clip(question)}\n${answers
          .slice(0, 4)
          .map(({ text, rows }) => `      row ${numbers(rows)}: ${clip(text)}`)
          .join("\n")}`,
    );
    lines.push(
      `${count(conflicts.length, "question")} with different answers, of which the model would learn a mixture; keep one each:${shown.join("")}${more(conflicts.length)}`,
    );
  }
  if (leaks.length > 0) {
    const shown = leaks.map(({ validationRow, row, same }) =>
      same === "row" ? `${validationRow} = ${row}` : `${validationRow} asks the same as ${row}`,
    );
    lines.push(
      `${count(leaks.length, "row")} of ${validation} in the training data too, so its loss would flatter: ${listed(shown)}; remove them from one of the two`,
    );
  }
  return lines;
}

function ofThem(n: number, what: string): string {
  return `${n.toLocaleString("en-US")} of them ${n === 1 ? "loses" : "lose"} ${what}`;
}

function places(rows: readonly RowPlace[]): string {
  return numbers(rows.map(({ row }) => row));
}

function numbers(rows: readonly number[]): string {
  return listed(rows.map(String));
}

function listed(items: readonly string[]): string {
  return items.slice(0, NAMED).join(", ") + more(items.length);
}

function more(length: number): string {
  return length > NAMED ? ` and ${length - NAMED} more` : "";
}

function clip(text: string): string {
  const shown = printable(text).replaceAll(/\s+/g, " ").trim();
  const characters = [...shown.slice(0, 200)];
  return characters.length > 60 ? `${characters.slice(0, 60).join("")}\u2026` : shown || "(nothing)";
}
