/**
 * Writes a synthetic customer-service set: train.csv, and held-out.csv with a tenth as many questions, which ask for
 * facts of the training rows in words that training never saw.
 *
 *     bun run synthetic --out DIR [--rows 2000] [--seed 0]
 */
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { formatCsvRow } from "../../packages/data/src/index.ts";
import { MOST_ROWS, makeCustomerService, ROWS_OF_A_FACT, type Row } from "./make.ts";

const USAGE = "Usage: bun run synthetic --out DIR [--rows 2000] [--seed 0]";

/** Ends with one sentence. */
function fail(problem: string, status: number): never {
  console.error(`error: ${problem}`);
  if (status === 2) console.error(USAGE);
  process.exit(status);
}

function toCsv(rows: readonly Row[]): string {
  const cells = rows.map(({ instruction, input, output }) => [instruction, input, output]);
  return [["instruction", "input", "output"], ...cells].map(formatCsvRow).join("");
}

function parse() {
  try {
    return parseArgs({
      options: {
        out: { type: "string" },
        rows: { type: "string", default: "2000" },
        seed: { type: "string", default: "0" },
        help: { type: "boolean", short: "h", default: false },
      },
    }).values;
  } catch (error) {
    return fail((error as Error).message, 2);
  }
}

const { out, rows, seed, help } = parse();
if (help) {
  console.log(USAGE);
  process.exit(0);
}
if (!out) fail("--out needs the folder that the files go to", 2);
const [count, start] = [Number(rows), Number(seed)];
if (!(Number.isInteger(count / ROWS_OF_A_FACT) && count > 0 && count <= MOST_ROWS)) {
  fail(`--rows must be a multiple of ${ROWS_OF_A_FACT} up to ${MOST_ROWS}; it is ${JSON.stringify(rows)}`, 2);
}
if (!/^\d{1,9}$/.test(seed))
  fail(`--seed must be a whole number of at most 9 digits; it is ${JSON.stringify(seed)}`, 2);
const { training, heldOut } = makeCustomerService(count, start);
const files = { "train.csv": training, "held-out.csv": heldOut };
try {
  await mkdir(out, { recursive: true });
  for (const [name, list] of Object.entries(files)) await writeFile(join(out, name), toCsv(list));
} catch (error) {
  fail(`the files could not be written: ${(error as Error).message}`, 1);
}
for (const [name, list] of Object.entries(files)) console.log(`${join(out, name)}: ${list.length} rows`);
