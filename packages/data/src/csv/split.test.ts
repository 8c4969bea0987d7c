import { expect, test } from "bun:test";
import fc from "fast-check";
import { RecordSplitter } from "./split.ts";

const LIMIT = 100;

function split(pieces: readonly string[], delimiter = ",", limit = LIMIT) {
  const splitter = new RecordSplitter(delimiter, limit);
  const records = pieces.flatMap((piece) => splitter.push(piece));
  records.push(...splitter.end());
  return { records, problem: splitter.problem };
}

const lines = (text: string) => split([text]).records.map(({ line, text }) => [line, text]);

test("records end at LF, CRLF and CR in any mixture", () => {
  expect(lines("a\nb\r\nc\rd")).toEqual([
    [1, "a"],
    [2, "b"],
    [3, "c"],
    [4, "d"],
  ]);
});

test("line breaks in quotes belong to the cell and count as lines", () => {
  expect(lines('a,"1\r\n2\n3\r4"\r\nb')).toEqual([
    [1, 'a,"1\r\n2\n3\r4"'],
    [5, "b"],
  ]);
});

test("blank lines are no records", () => {
  expect(lines("\n\r\na\n  \n\nb\n\n")).toEqual([
    [3, "a"],
    [6, "b"],
  ]);
});

test("a line of one quoted empty cell, or of empty cells, is a record", () => {
  expect(lines('""\n,,\n')).toEqual([
    [1, '""'],
    [2, ",,"],
  ]);
});

test("a quote inside an unquoted cell is a character", () => {
  expect(lines('5" disk,a\nb')).toEqual([
    [1, '5" disk,a'],
    [2, "b"],
  ]);
});

test("where the text is cut into pieces changes nothing", () => {
  const unit = fc.constantFrom(...'ab,;\t" \r\n\n"');
  fc.assert(
    fc.property(fc.string({ unit, maxLength: 60 }), fc.constantFrom(",", ";", "\t"), (text, delimiter) => {
      expect(split([...text], delimiter)).toEqual(split([text], delimiter));
    }),
    { numRuns: 1000 },
  );
});

test.each([
  ["a quote that is never closed", 'a,b\nc,"d\ne', "broken-quote", 2, 1],
  ["text after the closing quote", 'a\n"b\nc" d,e', "broken-quote", 3, 0],
  ["a zero byte", "a\nb,\0", "not-text", 2, 1],
  ["a cell beyond the limit", `a\nb,${"c".repeat(LIMIT + 1)}`, "limit", 2, 1],
  ["a quoted cell beyond the limit", `a\nb,"${"\n".repeat(LIMIT + 1)}`, "limit", 2, 1],
  ["a row beyond four times the limit", `a\n${"b,".repeat(2 * LIMIT + 1)}`, "limit", 2, 200],
] as const)("%s is named with line and cell", (_, text, code, line, cell) => {
  const { records, problem } = split([text]);
  expect(records[0]).toEqual({ text: code === "broken-quote" && line === 2 ? "a,b" : "a", line: 1 });
  expect(problem).toMatchObject({ code, line, cell });
});

test("an endless quoted cell is refused as soon as it passes the limit", () => {
  const splitter = new RecordSplitter(",", LIMIT);
  splitter.push('a\n"');
  let pushed = 0;
  while (!splitter.problem) pushed += splitter.push("x".repeat(10)).length + 10;
  expect(pushed).toBeLessThanOrEqual(LIMIT + 10);
});
