import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { dataErrorOf, encodeGbk, useFolder } from "../testing.ts";
import { type JsonOptions, type JsonRow, readJsonRows } from "./read.ts";
import { JsonArraySplitter, JsonLineSplitter } from "./split.ts";

const folder = useFolder();

async function read(content: string | Uint8Array, options: JsonOptions = {}): Promise<JsonRow[]> {
  const rows: JsonRow[] = [];
  for await (const row of readJsonRows(folder.file("rows.json", content), options)) rows.push(row);
  return rows;
}

test("the elements of an array, with row and line", async () => {
  expect(await read('\ufeff\n[\r\n  {"a": "],\\"["},\n\n  [1, {"b": []}], 3\n]\n')).toEqual([
    { value: { a: '],"[' }, row: 1, line: 3 },
    { value: [1, { b: [] }], row: 2, line: 5 },
    { value: 3, row: 3, line: 5 },
  ]);
});

test("JSON Lines, with blank lines between", async () => {
  expect(await read('\n{"a": "云"}\r\n\n{"a": 2}')).toEqual([
    { value: { a: "云" }, row: 1, line: 2 },
    { value: { a: 2 }, row: 2, line: 4 },
  ]);
});

test("GB18030 is read too", async () => {
  expect(await read(encodeGbk('["飞跃云"]'))).toEqual([{ value: "飞跃云", row: 1, line: 1 }]);
});

test("many blank lines before the first row, more than one piece of the reading", async () => {
  expect(await read(`${"\n".repeat(200_000)}[1]`)).toEqual([{ value: 1, row: 1, line: 200_001 }]);
});

describe("properties", () => {
  test("any values come back, from an array however it is written and from lines", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.jsonValue(), { minLength: 1 }),
        fc.constantFrom(0, 2, "\t"),
        async (values, indent) => {
          const expected = JSON.parse(JSON.stringify(values));
          expect((await read(JSON.stringify(values, null, indent))).map((row) => row.value)).toEqual(expected);
          const lines = ["{}", ...values.map((value) => JSON.stringify(value))].join("\n");
          expect((await read(lines)).map((row) => row.value)).toEqual([{}, ...expected]);
        },
      ),
    );
  });

  test("where the text is cut into pieces changes nothing, valid or not", () => {
    const unit = fc.constantFrom(...'[]{},:"\\a1 \r\n');
    const splitters = { array: () => new JsonArraySplitter(20), lines: () => new JsonLineSplitter(20) };
    fc.assert(
      fc.property(fc.string({ unit }), fc.constantFrom("array", "lines"), (text, kind) => {
        const split = (pieces: string[]) => {
          const splitter = splitters[kind]();
          const rows = pieces.flatMap((piece) => splitter.push(piece));
          return { rows: [...rows, ...splitter.end()], code: splitter.problem?.code };
        };
        expect(split([...`[${text}`])).toEqual(split([`[${text}`]));
      }),
      { numRuns: 1000 },
    );
  });

  test("a text is accepted as an array exactly where JSON.parse accepts it", async () => {
    const unit = fc.constantFrom("[", "]", "{", "}", ",", '"', ":", "1", " ", '"a":1', "{}", "\\");
    await fc.assert(
      fc.asyncProperty(fc.string({ unit, maxLength: 8 }), async (body) => {
        const text = `[${body}]`;
        let expected: unknown[] | undefined;
        try {
          expected = JSON.parse(text);
        } catch {}
        if (expected?.length === 0) return;
        if (expected) expect((await read(text)).map((row) => row.value)).toEqual(expected);
        else await dataErrorOf(() => read(text));
      }),
      { numRuns: 1000 },
    );
  });
});

describe("what is wrong is named with file, line and row", () => {
  test.each([
    [
      "a row that is no JSON",
      '[\n{"a": 1},\n{"a": 1 2}]',
      "rows.json, line 3 (row 2): this is not valid JSON: Expected '}'; correct the row",
    ],
    [
      "a line that is no JSON",
      '{"a": 1}\n\n{"a":\n',
      "rows.json, line 3 (row 2): this is not valid JSON: Unexpected EOF; correct the row",
    ],
    [
      "an array cut off",
      '[{"a": 1},\n{"a": ',
      'rows.json, line 2 (row 2): the file ends before the "]" that closes the list; it may have been cut off: write or fetch it again',
    ],
    [
      "a comma too many",
      '[{"a": 1},\n]',
      "rows.json, line 2 (row 2): a row is missing around this comma; remove the comma",
    ],
    [
      "brackets crossed",
      '[{"a": [1}]',
      'rows.json, line 1 (row 1): this is not valid JSON: "}" stands where a "]" is needed; correct the row',
    ],
    [
      "something after the array",
      '[1]\n{"a": 1}',
      'rows.json, line 2 (row 2): "{" follows the "]" that closes the list; remove what comes after it',
    ],
    ["an empty file", "", "rows.json: the file is empty; give one with rows"],
    ["blank lines only", "\n \n", "rows.json: the file has no rows; give a list or lines of rows"],
    ["an empty array", "[ ]", "rows.json: the file has no rows; give a list or lines of rows"],
  ])("%s", async (_, content, sentence) => {
    expect((await dataErrorOf(() => read(content))).sentence).toBe(sentence);
  });

  test("the limits", async () => {
    const sentence = async (text: string, options: JsonOptions) =>
      (await dataErrorOf(() => read(text, options))).sentence;
    expect(await sentence("[1,\n2,3]", { maxRows: 1 })).toBe(
      "rows.json, line 2 (row 2): the file has more than 1 rows; raise maxRows",
    );
    for (const text of [`[1,\n"${"x".repeat(80)}"]`, `{}\n"${"x".repeat(80)}"`]) {
      expect(await sentence(text, { maxCellLength: 10 })).toBe(
        "rows.json, line 2 (row 2): the row is longer than 80 characters; shorten it or raise maxCellLength",
      );
    }
    expect(await sentence("[1, 2]", { maxFileBytes: 5 })).toBe(
      "rows.json: the file has 6 bytes, more than the 5 allowed; split it or raise maxFileBytes",
    );
  });

  test("a missing file", async () => {
    const error = await dataErrorOf(() => Array.fromAsync(readJsonRows(folder.path("no.json"))));
    expect(error.sentence).toBe("no.json: cannot be read: there is no such file; check the path");
  });

  test("an endless row is refused as soon as it passes the limit", () => {
    for (const splitter of [new JsonArraySplitter(100), new JsonLineSplitter(100)]) {
      splitter.push("[");
      let pushed = 0;
      while (!splitter.problem) pushed += splitter.push('"x').length + 2;
      expect(pushed).toBeLessThanOrEqual(102);
    }
  });
});
