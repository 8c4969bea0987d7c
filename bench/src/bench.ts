#!/usr/bin/env bun
import { bytes, CommandError, type Context, checked, locateModel, modelCommand, run } from "@tslm/cli";
import { z } from "zod";
import { FIGURE_NAMES, type FigureName } from "./figures.ts";

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
    ],
  )
    .option("--only <figures>", `some of ${FIGURE_NAMES.join(", ")}`, checked(figureList))
    .action(async ({ only = FIGURE_NAMES, model, device, threads, json }) => {
      const { terminal, signal } = context;
      context.onInterrupt = () => "The figures so far were printed.";
      const { dir, name } = await locateModel(context, model);
      terminal.say(`Measuring ${name}.`);
      for (const figure of only) {
        const order = JSON.stringify({ figure, dir, device, threads });
        const child = Bun.spawn([process.execPath, Bun.fileURLToPath(new URL("./figure.ts", import.meta.url)), order], {
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
        const measured = result.parse(JSON.parse(stdout));
        if (json) terminal.json(measured);
        else terminal.print(describe(measured));
      }
    });
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
  const beside = Object.entries(more).map(([name, x]) => `, ${name} ${Number(x).toFixed(1)}`);
  const memory = `${bytes(peak_rss_bytes)} of memory, ${bytes(rss_file_bytes)} of it files`;
  return `${figure.padEnd(26)} ${value.toFixed(2).padStart(9)}${beside.join("")}   (${memory}; ${device} ${isa}, ${threads} threads)`;
}

await run(bench);
