#!/usr/bin/env bun
import { bytes, CommandError, type Context, checked, locateModel, modelCommand, run } from "@tslm/cli";
import { measureLimits } from "@tslm/tensor/measure";
import { z } from "zod";
import { FIGURE_NAMES, type FigureName, figuresOf } from "./figures.ts";
import { PROFILED_FIGURES, type ProfiledFigure, type ProfileResult } from "./profile.ts";
import { profileTable } from "./profile-table.ts";

const figureList = z.string().transform((text, context) => {
  const names = text.split(",").map((name) => name.trim());
  if (names.every((name): name is FigureName => FIGURE_NAMES.some((known) => known === name))) return names;
  context.addIssue({ code: "custom", message: `of ${FIGURE_NAMES.join(", ")}, with commas between` });
  return z.NEVER;
});

const result = z.looseObject({
  figure: z.string(),
  value: z.number(),
  peak_rss_bytes: z.number(),
  rss_file_bytes: z.number(),
  device: z.string(),
  isa: z.string(),
  threads: z.number(),
});

function bench(context: Context) {
  return modelCommand(
    context,
    "bench",
    "Measure how fast this machine loads, answers and trains. Let nothing else run meanwhile.",
    [
      ["bun run bench --json", "every figure, a JSON line each"],
      ["bun run bench --only decode_tokens_per_s,load_s", "two of them"],
      ["bun run bench --model demo", "on the small bundled model"],
      ["bun run bench --profile --only sft_tokens_per_s", "where the time of a training step goes"],
    ],
  )
    .option("--only <figures>", `some of ${FIGURE_NAMES.join(", ")}`, checked(figureList))
    .option(
      "--profile",
      "instead of figures, a table of every operation: time, arithmetic, memory, how near the limits",
    )
    .action(async ({ only, profile, model, device, threads, json }) => {
      const { terminal, signal } = context;
      context.kept = "What was measured so far was printed.";
      const { dir, name } = await locateModel(context, model);
      terminal.say(`Measuring ${name}.`);
      const measure = async (script: string, figure: FigureName): Promise<unknown> =>
        JSON.parse(await output(script, figure, JSON.stringify({ figure, dir, device, threads }), signal));
      if (profile) {
        const peaks = await measureLimits({ threads });
        for (const figure of (only ?? FIGURE_NAMES).filter(isProfiled)) {
          // Typed by the script that prints it.
          const measured = (await measure("./profile.ts", figure)) as ProfileResult;
          if (json) terminal.json({ ...measured, peak_gflops: peaks.gflops, peak_gbytes_per_s: peaks.gbytes });
          else terminal.print(`${profileTable(measured, peaks)}\n`);
        }
        return;
      }
      for (const figure of only ?? figuresOf(dir)) {
        const measured = result.parse(await measure("./figure.ts", figure));
        if (json) terminal.json(measured);
        else terminal.print(describe(measured));
      }
    });
}

const isProfiled = (figure: FigureName): figure is ProfiledFigure => PROFILED_FIGURES.some((known) => known === figure);

/** Runs a script of this folder and gives what it printed. */
async function output(script: string, figure: string, order: string, signal: AbortSignal): Promise<string> {
  const child = Bun.spawn([process.execPath, Bun.fileURLToPath(new URL(script, import.meta.url)), order], {
    stdout: "pipe",
    stderr: "pipe",
    signal,
  });
  const [stdout, stderr, status] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  signal.throwIfAborted();
  if (status !== 0) throw new CommandError(`${figure} could not be measured: ${lastError(stderr)}`);
  return stdout;
}

/** The line of a crashed child's output that says why. */
function lastError(stderr: string): string {
  const lines = stderr.split("\n").filter((line) => /^\w*Error: |^error: /.test(line));
  return lines.at(-1) ?? (stderr.trim().split("\n").at(-1) || "its process ended");
}

function describe({
  figure,
  value,
  peak_rss_bytes,
  rss_file_bytes,
  device,
  isa,
  threads,
  ...more
}: z.output<typeof result>) {
  const beside = Object.entries(more).map(([name, x]) => `, ${name} ${typeof x === "number" ? shown(name, x) : x}`);
  const memory = `${bytes(peak_rss_bytes)} of memory, ${bytes(rss_file_bytes)} of it files`;
  return `${figure.padEnd(26)} ${value.toFixed(2).padStart(9)}${beside.join("")}   (${memory}; ${device} ${isa}, ${threads} threads)`;
}

/** Shares in hundredths, other numbers in tenths. */
const shown = (name: string, x: number): string => (name.includes("of_") ? `${Math.round(100 * x)}%` : x.toFixed(1));

await run(bench);
