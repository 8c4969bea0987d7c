import Table from "cli-table3";
import { printable } from "./terminal.ts";

/** Widest cell, in columns of the screen. */
const MOST = 60;

/** Rows of text with a head, as a table; Chinese characters count two columns, long cells are wrapped. */
export function table(head: readonly string[], rows: readonly (readonly string[])[], width = 100): string {
  const room = Math.max(12, Math.min(MOST, Math.floor((width - 1) / head.length) - 3));
  const made = new Table({
    head: [...head],
    style: { head: [], border: [] },
    wordWrap: true,
    wrapOnWordBoundary: false,
  });
  for (const row of rows) made.push(row.map((cell) => wrap(printable(cell), room)));
  return made.toString();
}

const NO_BORDERS = Object.fromEntries(
  ["top", "bottom", "mid"]
    .flatMap((edge) => [edge, `${edge}-mid`, ...(edge === "mid" ? [] : [`${edge}-left`, `${edge}-right`])])
    .concat("left", "left-mid", "mid-mid", "right", "right-mid", "middle")
    .map((name) => [name, ""]),
);

/** Rows of short texts below each other, without lines around them; nothing is wrapped. */
export function columns(rows: readonly (readonly string[])[]): string {
  const made = new Table({ chars: NO_BORDERS, style: { head: [], border: [], "padding-left": 0, "padding-right": 2 } });
  for (const row of rows) made.push(row.map((cell) => printable(cell)));
  return made.toString().replaceAll(/ +$/gm, "");
}

/** Breaks text into lines of at most `room` columns. */
function wrap(text: string, room: number): string {
  const lines: string[] = [];
  for (const paragraph of text.split("\n")) {
    let line = "";
    for (const { segment } of new Intl.Segmenter(undefined, { granularity: "grapheme" }).segment(paragraph)) {
      if (Bun.stringWidth(line) + Bun.stringWidth(segment) > room) {
        lines.push(line);
        line = "";
      }
      line += segment;
    }
    lines.push(line);
  }
  return lines.join("\n");
}
