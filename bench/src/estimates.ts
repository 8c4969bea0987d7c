#!/usr/bin/env bun
/**
 * What `train` says before it starts against what is then measured, over settings that differ in what they need:
 *
 *     bun bench/src/estimates.ts MODEL [NAME…]
 *
 * A line a setting: peak memory in MB and seconds of training, each estimated, measured and by how much the estimate is off.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { z } from "zod";

const TRAIN = fileURLToPath(new URL("../../packages/cli/src/bin/train.ts", import.meta.url));
const DATA = fileURLToPath(new URL("../../data/input/lora_train_data.csv", import.meta.url));

/** Long rows, made of the facts of many short ones. */
function rows(count: number, sentences: number): string {
  const answer = (row: number): string =>
    Array.from(
      { length: sentences },
      (_, i) => `第${row * sentences + i}号机房的容量是${(row + 3) * (i + 7)}TB,位于${i + 1}楼。`,
    ).join("");
  return Array.from({ length: count }, (_, row) =>
    JSON.stringify({ instruction: "", input: `第${row}组机房?`, output: answer(row) }),
  ).join("\n");
}

const folder = mkdtempSync(join(tmpdir(), "estimates-"));
const [short, long, longest] = ["short", "long", "longest"].map((name) => join(folder, `${name}.jsonl`));
writeFileSync(short, rows(24, 2));
writeFileSync(long, rows(6, 16));
writeFileSync(longest, rows(4, 60));

const SETTINGS: Readonly<Record<string, readonly string[]>> = {
  default: ["--data", DATA],
  tuned: ["--data", DATA, "--recipe", "tuned"],
  "rank 64": ["--data", DATA, "--rank", "64"],
  "all layers": ["--data", short, "--targets", "all", "--epochs", "1"],
  "all, rank 64": ["--data", short, "--targets", "all", "--rank", "64", "--epochs", "1"],
  "batch 8": ["--data", short, "--batch", "8", "--grad-accum", "1", "--epochs", "1"],
  "long rows": ["--data", long, "--epochs", "1"],
  "max-length 128": ["--data", long, "--max-length", "128", "--epochs", "2"],
  "1024 tokens a row": ["--data", longest, "--max-length", "1024", "--epochs", "1"],
  q8: ["--data", short, "--quantize", "q8", "--epochs", "1"],
  "q4, all layers": ["--data", long, "--quantize", "q4", "--targets", "all", "--epochs", "1"],
  "no dropout": ["--data", DATA, "--dropout", "0", "--epochs", "6"],
  "answers only": ["--data", DATA, "--loss", "completion", "--epochs", "6"],
  validation: ["--data", short, "--validation-split", "0.2", "--epochs", "2"],
  "small passes": ["--data", long, "--tokens-per-pass", "256", "--epochs", "1"],
  DoRA: ["--data", DATA, "--use-dora"],
  "first layers": ["--data", DATA, "--layers", "0-3", "--epochs", "6"],
  "middle layers": ["--data", DATA, "--layers", "10-13", "--epochs", "6"],
  "last layers": ["--data", DATA, "--layers", "20-23", "--epochs", "6"],
  "first layer alone": ["--data", DATA, "--layers", "0", "--epochs", "6"],
  "middle layer alone": ["--data", long, "--layers", "12", "--epochs", "2"],
  "last layer alone": ["--data", long, "--layers", "23", "--targets", "all", "--epochs", "2"],
};

const resultSchema = z.object({
  estimate: z.object({ seconds: z.number(), peak_rss_bytes: z.number() }),
  seconds: z.number(),
  peak_rss_bytes: z.number(),
});

const [model = "demo", ...names] = process.argv.slice(2);
const cell = (text: string | number, width: number): string => String(text).padStart(width);
const off = (estimate: number, measured: number): string =>
  `${((100 * (estimate - measured)) / measured).toFixed(1)} %`;
console.log(`${"setting".padEnd(18)}   MB: said  measured      off   seconds: said  measured      off`);
try {
  for (const name of names.length > 0 ? names : Object.keys(SETTINGS)) {
    const args = [TRAIN, "--model", model, "--out", join(folder, "out"), "--json", ...SETTINGS[name]];
    const child = Bun.spawn(["bun", ...args], { stdout: "pipe", stderr: "pipe", cwd: folder });
    const [out, errors] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
    if ((await child.exited) !== 0) throw new Error(`${name}: ${errors}`);
    const { estimate, ...measured } = resultSchema.parse(JSON.parse(out));
    const [said, found] = [estimate, measured].map(({ peak_rss_bytes }) => Math.round(peak_rss_bytes / 1e6));
    const seconds = [estimate, measured].map((one) => one.seconds.toFixed(1));
    console.log(
      `${name.padEnd(18)} ${cell(said, 10)} ${cell(found, 9)} ${cell(off(said, found), 8)} ${cell(seconds[0], 15)} ${cell(seconds[1], 9)} ${cell(off(estimate.seconds, measured.seconds), 8)}`,
    );
  }
} finally {
  rmSync(folder, { recursive: true });
}
