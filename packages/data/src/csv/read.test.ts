import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { DataError } from "../error.ts";
import { dataErrorOf, encodeGbk, encodeUtf16, useFolder } from "../testing.ts";
import { type CsvRow, openCsv } from "./read.ts";
import { formatCsvRow } from "./write.ts";

const folder = useFolder();

async function read(path: string, required: string[] = [], limits = {}) {
  const csv = await openCsv(path, { required, ...limits });
  const rows: CsvRow[] = [];
  for await (const row of csv.rows()) rows.push(row);
  return { csv, rows, cells: rows.map((row) => row.cells) };
}

describe("files as they come", () => {
  const text = 'input,output\n问,"答,\n""好"""\n';
  const cells = [["问", '答,\n"好"']];

  test.each([
    ["UTF-8", Buffer.from(text)],
    ["a byte order mark", Buffer.from(`\ufeff${text}`)],
    ["GB18030", encodeGbk(text)],
    ["UTF-16", encodeUtf16(text, true)],
    ["no line break at the end", Buffer.from(text.trimEnd())],
    ["spaces after a closing quote", Buffer.from(text.replace('"""\n', '""" \n'))],
  ])("%s", async (name, bytes) => {
    expect((await read(folder.file(name, bytes), ["input", "output"])).cells).toEqual(cells);
  });

  test.each([
    ["CRLF", "\r\n"],
    ["CR", "\r"],
  ])("%s ends lines, and stays as it is inside a cell", async (name, lineBreak) => {
    const path = folder.file(name, text.replaceAll("\n", lineBreak));
    expect((await read(path)).cells).toEqual([["问", `答,${lineBreak}"好"`]]);
  });

  test.each([
    [",", "input,output\na;b,c\n"],
    [";", "input;output\na,b;c\n"],
    ["\t", "input\toutput\na,b\tc\n"],
    [";", '"input";"output"\na,b;c\n'],
  ] as const)("the delimiter %j is found", async (delimiter, text) => {
    const { csv, cells } = await read(folder.file("delimiter.csv", text), ["input", "output"]);
    expect(csv.delimiter).toBe(delimiter);
    expect(cells).toEqual([[delimiter === "," ? "a;b" : "a,b", "c"]]);
  });

  test("the delimiter is the one that gives the required columns, not the most frequent sign", async () => {
    const path = folder.file("delimiter.csv", '"input";"output";"a,b,c,d,e,f"\n1;2;3\n');
    expect((await openCsv(path, { required: ["input", "output"] })).delimiter).toBe(";");
  });

  test("rows know their number and line", async () => {
    const { rows } = await read(folder.file("lines.csv", '\na,b\n\n1,"x\ny"\n\n2,\n'));
    expect(rows).toEqual([
      { cells: ["1", "x\ny"], row: 1, line: 4 },
      { cells: ["2", ""], row: 2, line: 7 },
    ]);
  });

  test("names in the header may have spaces around them", async () => {
    const { csv } = await read(folder.file("spaces.csv", "input, output\n1,2\n"), ["input", "output"]);
    expect(csv.indexOf("output")).toBe(1);
    expect(csv.columns).toEqual(["input", " output"]);
  });

  test("a byte order mark inside the text stays, wherever a piece begins", async () => {
    expect((await read(folder.file("mark.csv", "a,b\n\ufeff1,\ufeff2\n"))).cells).toEqual([["\ufeff1", "\ufeff2"]]);
  });

  test("the rows can be read twice", async () => {
    const { csv } = await read(folder.file("twice.csv", "a\n1\n2\n"));
    let count = 0;
    for await (const _ of csv.rows()) count++;
    expect(count).toBe(2);
  });

  test("reading goes on only as rows are taken", async () => {
    const csv = await openCsv(folder.file("large.csv", `a\n${"1234567\n".repeat(100_000)}`), { required: [] });
    let bytes = 0;
    for await (const _ of csv.rows((bytesRead) => (bytes = bytesRead))) break;
    expect(bytes).toBeLessThan(csv.size / 2);
  });
});

describe("Excel's first line that declares the delimiter", () => {
  test.each([
    [";", "sep=;\r\ninput;output\r\na,b;c\r\n"],
    [",", '"sep=,"\ninput,output\n"a,b",c\n'],
    ["\t", "SEP=\t\ninput\toutput\na,b\tc\n"],
    [";", "\ufeffsep=; \ninput;output\na,b;c"],
  ] as const)("%j", async (delimiter, text) => {
    const { csv, rows } = await read(folder.file("sep.csv", text), ["input", "output"]);
    expect([csv.delimiter, csv.columns]).toEqual([delimiter, ["input", "output"]]);
    expect(rows).toEqual([{ cells: ["a,b", "c"], row: 1, line: 3 }]);
  });

  test("holds, even where another delimiter would give the columns", async () => {
    const error = await dataErrorOf(() => read(folder.file("sep.csv", "sep=;\ninput,output\na,b\n"), ["input"]));
    expect(error.sentence).toBe(
      'sep.csv, line 2, column "input": the column is missing: the header has "input,output"; rename or add it',
    );
  });

  test("another sign than comma, semicolon and tab is named", async () => {
    const error = await dataErrorOf(() => read(folder.file("sep.csv", "sep=|\ninput|output\na|b\n"), ["input"]));
    expect(error.sentence).toBe(
      'sep.csv, line 1: the line says that "|" separates the cells; save the table with commas, semicolons or tabs',
    );
  });

  test("nothing below it", async () => {
    for (const text of ["sep=;\n", "sep=;\ninput;output\n"]) {
      expect((await dataErrorOf(() => read(folder.file("sep.csv", text)))).code).toBe("empty");
    }
  });

  test("a column may be called so", async () => {
    const { cells } = await read(folder.file("sep.csv", "sep=;x,output\na,b\n"));
    expect(cells).toEqual([["a", "b"]]);
  });
});

describe("properties", () => {
  const cell = fc.oneof(
    fc.string({ unit: fc.constantFrom(..."a云,;\t\"'\r\n \ufeff"), maxLength: 12 }),
    fc.string({ unit: "binary" }).map((text) => text.replaceAll("\0", "")),
  );

  test("any cells come back from the CSV that is written of them", async () => {
    const table = fc
      .integer({ min: 1, max: 4 })
      .chain((width) =>
        fc.array(fc.array(cell, { minLength: width, maxLength: width }), { minLength: 1, maxLength: 8 }),
      );
    await fc.assert(
      fc.asyncProperty(table, async (rows) => {
        const header = rows[0].map((_, i) => `column ${i}`);
        const path = folder.file("any.csv", [header, ...rows].map(formatCsvRow).join(""));
        const { csv, cells } = await read(path, header);
        expect(csv.columns).toEqual(header);
        expect(cells).toEqual(rows);
      }),
      { numRuns: 300 },
    );
  });

  test("any text is read, or refused with a DataError that has its place", async () => {
    const unit = fc.constantFrom(...'ab,,""" \t;\r\n\n');
    await fc.assert(
      fc.asyncProperty(fc.string({ unit, maxLength: 50 }), async (body) => {
        try {
          const { csv, rows } = await read(folder.file("fuzz.csv", `x,y\n${body}`), ["x", "y"]);
          for (const row of rows) expect(row.cells).toHaveLength(csv.columns.length);
        } catch (error) {
          if (!(error instanceof DataError)) throw error;
          if (error.code === "empty") return;
          expect(error.row).toBeGreaterThan(0);
          expect(error.line).toBeGreaterThan(1);
          expect(["x", "y"]).toContain(error.column!);
        }
      }),
      { numRuns: 1000 },
    );
  });
});

describe("what is wrong is named with file, line, row and column", () => {
  const refuse = async (content: string | Uint8Array, limits = {}) =>
    dataErrorOf(() => read(folder.file("faq.csv", content), ["input", "output"], limits));

  test.each([
    [
      "a missing column",
      "input,Output\n1,2\n",
      "missing-column",
      'faq.csv, line 1, column "output": the column is missing: the header has "input", "Output"; rename or add it',
    ],
    [
      "a doubled column",
      "input,output,output\n1,2,3\n",
      "duplicate-column",
      'faq.csv, line 1, column "output": the header has the column twice; rename or remove one of them',
    ],
    [
      "too few cells",
      "input,output,note\n1,2,3\n4\n",
      "ragged-row",
      'faq.csv, line 3 (row 2), column "output": the row has 1 cell where the header has 3 columns, so this one is missing; add the cell, or an empty one',
    ],
    [
      "too many cells",
      "input,output\n1,2\n\n3,4, 多\n",
      "ragged-row",
      'faq.csv, line 4 (row 2), column "output": the row has 3 cells where the header has 2 columns: " 多" follows the last column; put double quotes around a cell that holds a ","',
    ],
    [
      "a quote never closed",
      'input,output\n1,2\n3,"4\n5,6\n',
      "broken-quote",
      'faq.csv, line 3 (row 2), column "output": the quote that opens this cell is never closed; add the closing " (a quote inside a cell is written "")',
    ],
    [
      "text after a closing quote",
      'input,output\n1,"他说"好""\n',
      "broken-quote",
      'faq.csv, line 2 (row 1), column "output": the closing quote of this cell is followed by "好"; write a quote inside a cell as "", or close the cell before it',
    ],
    [
      "a quote closed rows later",
      'input,output\n1,"2\n3,"4"\n',
      "broken-quote",
      'faq.csv, line 3 (row 1), column "output": the closing quote of this cell (it opened on line 2) is followed by "4"; write a quote inside a cell as "", or close the cell before it',
    ],
    [
      "a broken quote in the header",
      'input,"output\n1,2\n',
      "broken-quote",
      'faq.csv, line 1: in the header, the quote that opens this cell is never closed; add the closing " (a quote inside a cell is written "")',
    ],
    ["an empty file", "", "empty", "faq.csv: the file is empty; give one with rows"],
    ["blank lines only", " \n\n", "empty", "faq.csv: the file has only blank lines; give one with a header and rows"],
    [
      "a header only",
      "input,output\n\n",
      "empty",
      "faq.csv: the file has a header but no rows; add a row for each question",
    ],
    [
      "UTF-16 without a byte order mark",
      encodeUtf16("input,output\n1,2\n", true).subarray(2),
      "not-text",
      "faq.csv, line 1: in the header, there is a zero byte, so this is no text file, or UTF-16 without a byte order mark; save it as UTF-8",
    ],
  ])("%s", async (_, content, code, sentence) => {
    const error = await refuse(content);
    expect(error.sentence).toBe(sentence);
    expect(error.code as string).toBe(code);
  });

  test("the limits", async () => {
    expect((await refuse("input,output\n1,2\n3,4\n", { maxRows: 1 })).sentence).toBe(
      "faq.csv, line 3 (row 2): the file has more than 1 rows; raise maxRows",
    );
    expect((await refuse(`input,output\n1,${"2".repeat(21)}\n`, { maxCellLength: 20 })).sentence).toBe(
      'faq.csv, line 2 (row 1), column "output": the cell is longer than 20 characters; shorten it or raise maxCellLength',
    );
    expect((await refuse(`input,output\n1,"${"2".repeat(30)}\n3,4\n`, { maxCellLength: 20 })).sentence).toBe(
      'faq.csv, line 2 (row 1), column "output": the cell is longer than 20 characters; close the quote that opens it, or raise maxCellLength',
    );
    expect((await refuse(`input,output\n${"1,".repeat(50)}\n`, { maxCellLength: 20 })).sentence).toBe(
      'faq.csv, line 2 (row 1), column "output": the row is longer than 80 characters, four times the longest cell allowed; shorten it or raise maxCellLength',
    );
  });

  test("a broken quote below a header that lacks columns is not the trouble", async () => {
    expect((await refuse('question\n"a" b\n')).code).toBe("missing-column");
  });

  test("the first trouble is the one told", async () => {
    expect((await refuse('input,output\n1\n2,"3\n')).code).toBe("ragged-row");
  });

  test("a missing file and a folder", async () => {
    const missing = await dataErrorOf(() => read(folder.path("no.csv")));
    expect(missing.code).toBe("missing-file");
    expect(missing.sentence).toBe("no.csv: cannot be read: there is no such file; check the path");
    const directory = await dataErrorOf(() => read(folder.path(".")));
    expect(directory.code).toBe("not-a-file");
    expect(directory.message).toEndWith("cannot be read: this is a folder; give the path of a file");
  });

  test("a device", async () => {
    const device = await dataErrorOf(() => read("/dev/null"));
    expect(device.sentence).toBe(
      "null: this is a pipe or a device, but the file is read more than once; save it as a regular file first",
    );
  });
});
