import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DataError, formatCsvRow, readExamples } from "../../../packages/data/src/index.ts";
import { allowingLater, check, type FuzzTarget } from "../target.ts";

let folder: string | undefined;
function fileOf(ending: string, data: Uint8Array): string {
  folder ??= mkdtempSync(join(tmpdir(), "fuzz-csv-"));
  const path = join(folder, `data.${ending}`);
  writeFileSync(path, data);
  return path;
}

/** Tables of training data in any encoding; what is read is read again from what `formatCsvRow` makes of it. */
export const target: FuzzTarget = {
  words: ["instruction", "input", "output", "sep=;", '""', "\r\n", "\ufeff", "weight"],
  maxLength: 512,
  seeds: () => [
    "input,output\n问题,答案\n",
    'sep=;\ninput;output;weight\n"a;b";"say ""hi""\n";2\n',
    "\ufeffinput\toutput\r\nx\t<b>y</b>\r\n",
    Uint8Array.from([
      0xff,
      0xfe,
      ...new Uint8Array(new Uint16Array([..."input,output\na,b"].map((c) => c.charCodeAt(0))).buffer),
    ]),
  ],
  async fuzz(data) {
    const rows = await allowingLater([DataError], () => readExamples(fileOf("csv", data), { maxCellLength: 1000 }));
    if (!rows) return;
    const again = [["input", "output"], ...rows.map((row) => [row.input ?? "", row.output ?? ""])];
    const text = again.map((row) => formatCsvRow(row)).join("");
    const back = await readExamples(fileOf("csv", new TextEncoder().encode(text)));
    const pairs = (of: typeof rows): string => JSON.stringify(of.map((row) => [row.input, row.output]));
    check(pairs(back) === pairs(rows), () => `written and read again: ${pairs(back)} instead of ${pairs(rows)}`);
  },
};
