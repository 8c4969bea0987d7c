#!/usr/bin/env bun
import {
  baseCommand,
  CommandError,
  type Context,
  checked,
  integer,
  locateModel,
  notEmpty,
  option,
  run,
} from "@tslm/cli";
import { z } from "zod";
import { CONTENDERS, type Contender, type Given, isOurs, measureContender, missing } from "./serve/contenders.ts";
import { type Ratio, type Row, ratiosOf, rowOf } from "./serve/figures.ts";
import type { Measured } from "./serve/measure.ts";

/** The server takes no more of one client at once. */
const MOST_STREAMS = 64;

/** Values with commas between; each must be one of those known, or pass `schema`. */
function listOf<T>(schema: z.ZodType<T, string>, want: string) {
  return checked(
    z.string().transform((text, context) => {
      const values = z.array(schema).safeParse(text.split(",").map((part) => part.trim()));
      if (values.success) return values.data;
      context.addIssue({ code: "custom", message: `${want}, with commas between` });
      return z.NEVER;
    }),
  );
}

function bench(context: Context) {
  return baseCommand(
    context,
    "bench:serve",
    "Ask the server many questions at once, and llama.cpp's server with the same weights after it. Let nothing else run meanwhile.",
    [
      ["bun run bench:serve --model DIR --gguf FILE", "1, 4, 16 and 64 streams, every kind of weights and llama.cpp"],
      ["bun run bench:serve --streams 16 --contenders gguf,llama.cpp --gguf FILE", "two of them with 16 streams"],
      ["bun run bench:serve --streams 1,16 --contenders bf16,engine:bf16", "what HTTP costs"],
    ],
  )
    .addOption(option("--model <name|dir>", "a model's name, its folder, or demo", notEmpty))
    .addOption(option("--gguf <file>", "the GGUF file that `gguf` and `llama.cpp` answer from", notEmpty))
    .addOption(option("--llama-server <file>", "llama.cpp's server (default: llama-server of the path)", notEmpty))
    .addOption(option("--threads <n>", "threads of each server (default: all cores)", integer(1, 1024)))
    .option(
      "--streams <list>",
      "questions at once",
      listOf(integer(1, MOST_STREAMS), `whole numbers from 1 to ${MOST_STREAMS}`),
      [1, 4, 16, 64],
    )
    .addOption(option("--tokens <n>", "tokens of each answer", integer(2, 512)).default(64))
    .option(
      "--contenders <list>",
      `some of ${CONTENDERS.join(", ")}; engine: is without HTTP`,
      listOf(z.enum(CONTENDERS), `of ${CONTENDERS.join(", ")}`),
      ["bf16", "q8", "q4", "gguf", "llama.cpp"] satisfies Contender[],
    )
    .action(async ({ model, gguf, llamaServer, threads, streams: counts, tokens, contenders, json }) => {
      const { terminal, signal } = context;
      context.kept = "What was measured is printed.";
      const { dir } = await locateModel(context, model);
      const given: Given = {
        ...{ model: dir, gguf, threads, signal },
        llamaServer: llamaServer ?? Bun.which("llama-server") ?? undefined,
      };
      const able = contenders.filter((contender) => {
        const why = missing(contender, given);
        if (why) terminal.warn(`${contender} skipped: ${why}`);
        return !why;
      });
      const rows: Row[] = [];
      for (const streams of counts) {
        const outcomes = new Map<Contender, Measured>();
        for (const contender of able) {
          const measured = await measureContender(contender, { streams, tokens }, given);
          outcomes.set(contender, measured);
          const row = rowOf(contender, streams, measured, outcomes.get("gguf"));
          rows.push(row);
          if (json) terminal.json(row);
          else terminal.print(shown(row));
        }
      }
      for (const ratio of ratiosOf(rows)) {
        if (json) terminal.json(ratio);
        else terminal.print(shownRatio(ratio));
      }
      const different = rows.filter(({ contender, same_alone }) => isOurs(contender) && same_alone === false);
      if (different.length === 0) return;
      const which = different.map(({ contender, streams }) => `${contender} with ${streams} streams`);
      throw new CommandError(`answers differ when they are asked for alone: ${which.join(", ")}`);
    });
}

function shown({ contender, streams, tokens_per_s, first_token_ms, between_tokens_ms, ...more }: Row): string {
  const { repeated_prompt: repeated, same_alone, same_as_gguf } = more;
  const beside = [
    repeated && `${repeated.tokens} tokens new ${repeated.first_token_ms}, known ${repeated.again_ms} ms`,
    same_alone !== undefined && (same_alone ? "the same alone" : "DIFFERENT ALONE"),
    same_as_gguf !== undefined && `${Math.round(100 * same_as_gguf)}% as gguf`,
  ];
  return [
    `${String(streams).padStart(3)} ${contender.padEnd(12)} ${tokens_per_s.toFixed(1).padStart(7)} tokens/s`,
    `first ${first_token_ms.p50} / ${first_token_ms.p99} ms, between ${between_tokens_ms.p50} / ${between_tokens_ms.p99} ms`,
    ...beside.filter((text) => text),
  ].join("; ");
}

function shownRatio({ ratio, value, wanted }: Ratio): string {
  const bar = wanted === undefined ? "" : `  (${value >= wanted ? "reaches" : "MISSES"} ${wanted})`;
  return `${value.toFixed(2).padStart(7)}  ${ratio}${bar}`;
}

await run(bench);
