import type { ProfileResult } from "./profile.ts";

/** What the machine gives at most, 10⁹ a second. */
export interface Peaks {
  readonly gflops: number;
  readonly gbytes: number;
}

const COLUMNS = [-62, 7, 10, 7, 9, 9, 7, 9, 7, 7] as const;
const HEAD = ["call", "calls", "ms", "share", "GFLOP", "GFLOP/s", "of max", "MB", "GB/s", "bound"];

function line(cells: readonly string[]): string {
  return cells
    .map((cell, i) => (COLUMNS[i] < 0 ? cell.slice(0, -COLUMNS[i]).padEnd(-COLUMNS[i]) : cell.padStart(COLUMNS[i])))
    .join(" ");
}

const percent = (share: number): string => `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)}%`;

/** Rows that together take less than this share of the time are told as one. */
const SMALL = 0.002;

/**
 * One unit of work as a table: the calls by kind, what each needs at the least, and how near it comes to the machine:
 * `of max` is the share of the peak arithmetic, `bound` the share of the shortest time that arithmetic or memory allow.
 */
export function profileTable({ unit, rows, outside_s }: ProfileResult, { gflops, gbytes }: Peaks): string {
  const inside = rows.reduce((sum, { seconds }) => sum + seconds, 0);
  const total = inside + outside_s;
  const least = ({ flops, bytes }: { flops: number; bytes: number }): number =>
    Math.max(flops / gflops, bytes / gbytes) / 1e9;
  const show = (name: string, calls: number, seconds: number, flops: number, bytes: number, bound: number): string =>
    line([
      name,
      calls > 0 ? `${calls}` : "",
      (1000 * seconds).toFixed(2),
      percent(seconds / total),
      ...(calls > 0
        ? [
            (flops / 1e9).toFixed(2),
            (flops / seconds / 1e9).toFixed(1),
            percent(flops / seconds / 1e9 / gflops),
            (bytes / 1e6).toFixed(1),
            (bytes / seconds / 1e9).toFixed(1),
            percent(bound / seconds),
          ]
        : []),
    ]);
  const large = rows.filter(({ seconds }) => seconds >= SMALL * total);
  const small = rows.filter(({ seconds }) => seconds < SMALL * total);
  const sum = (of: typeof rows) => ({
    calls: of.reduce((n, row) => n + row.calls, 0),
    seconds: of.reduce((n, row) => n + row.seconds, 0),
    flops: of.reduce((n, row) => n + row.flops, 0),
    bytes: of.reduce((n, row) => n + row.bytes, 0),
    bound: of.reduce((n, row) => n + least(row), 0),
  });
  const rest = sum(small);
  const all = sum(rows);
  return [
    `One ${unit}: ${(1000 * total).toFixed(1)} ms, at best ${(1000 * all.bound).toFixed(1)} ms on a machine of ${gflops.toFixed(0)} GFLOP/s and ${gbytes.toFixed(1)} GB/s`,
    line(HEAD),
    ...large.map((row) =>
      show(`${row.primitive} ${row.detail}`, row.calls, row.seconds, row.flops, row.bytes, least(row)),
    ),
    ...(small.length > 0
      ? [show(`${small.length} smaller kinds`, rest.calls, rest.seconds, rest.flops, rest.bytes, rest.bound)]
      : []),
    show("between calls", 0, outside_s, 0, 0, 0),
    show("all", all.calls, total, all.flops, all.bytes, all.bound),
  ].join("\n");
}
