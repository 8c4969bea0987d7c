// Profiles one figure's work in a process of its own: every primitive of the device, timed and counted. Called by bench.ts.
import { openDevice } from "@tslm/cli";
import type { TrainingSequence } from "@tslm/lora";
import type { Qwen } from "@tslm/qwen";
import { setDefaultDevice } from "@tslm/tensor";
import { type Call, Profile, type ProfileRow, profiled, profileRows, quietest } from "@tslm/tensor/measure";
import { z } from "zod";
import {
  benchAdapter,
  type FigureName,
  fineTune,
  longPrompt,
  longSequences,
  prefill,
  seedSequences,
  withModel,
} from "./figures.ts";

/** A figure's work in units that do the same calls again and again. */
interface Subject {
  readonly unit: string;
  readonly repeats: number;
  /** Gives a function that does one unit. */
  prepare(qwen: Qwen): Promise<() => Promise<unknown>>;
}

/** Training steps over the same sequences, a step a call. */
function steps(qwen: Qwen, sequences: readonly TrainingSequence[]): () => Promise<unknown> {
  const lora = benchAdapter(qwen);
  return () => fineTune(qwen, lora, sequences, 1);
}

export const PROFILES = {
  prefill512_tokens_per_s: {
    unit: "prefill of 512 tokens",
    repeats: 5,
    async prepare(qwen) {
      const ids = longPrompt(qwen, 512);
      return () => prefill(qwen, ids);
    },
  },
  decode_tokens_per_s: {
    unit: "decoded token",
    repeats: 32,
    async prepare(qwen) {
      const tokens = qwen.generate(longPrompt(qwen, 32), { maxNewTokens: 100, endTokens: [] });
      await tokens.next();
      return () => tokens.next();
    },
  },
  sft_tokens_per_s: {
    unit: "training step of the first four rows",
    repeats: 5,
    async prepare(qwen) {
      return steps(qwen, (await seedSequences(qwen)).slice(0, 4));
    },
  },
  sft512_tokens_per_s: {
    unit: "training step of four sequences of 512 tokens",
    repeats: 2,
    prepare: async (qwen) => steps(qwen, longSequences(qwen)),
  },
} satisfies { readonly [K in FigureName]?: Subject };

export type ProfiledFigure = keyof typeof PROFILES;
export const PROFILED_FIGURES = Object.keys(PROFILES) as ProfiledFigure[];

/** What is printed for the parent. */
export interface ProfileResult {
  readonly figure: ProfiledFigure;
  readonly unit: string;
  readonly rows: readonly ProfileRow[];
  /** Between the calls: tape, scopes, shapes, the program itself. */
  readonly outside_s: number;
}

/** The quietest of the units in every call, and of the time between calls the least. */
async function measure(subject: Subject, qwen: Qwen, profile: Profile): Promise<Omit<ProfileResult, "figure">> {
  const work = await subject.prepare(qwen);
  await work();
  profile.take();
  const runs: Call[][] = [];
  let outside = Number.POSITIVE_INFINITY;
  for (let i = 0; i < subject.repeats; i++) {
    const started = performance.now();
    await work();
    const wall = (performance.now() - started) / 1000;
    const calls = profile.take();
    outside = Math.min(outside, wall - calls.reduce((sum, { seconds }) => sum + seconds, 0));
    runs.push(calls);
  }
  return { unit: subject.unit, rows: profileRows(quietest(runs)), outside_s: outside };
}

if (import.meta.main) {
  const order = z
    .object({
      figure: z.enum(PROFILED_FIGURES as [ProfiledFigure, ...ProfiledFigure[]]),
      dir: z.string(),
      device: z.enum(["auto", "cpu", "gpu", "reference"]),
      threads: z.int().optional(),
    })
    .parse(JSON.parse(process.argv[2]));
  const own = await openDevice(order);
  const profile = new Profile();
  const device = profiled(own, profile);
  setDefaultDevice(device);
  const result: Omit<ProfileResult, "figure"> = await withModel(
    { dir: order.dir, threads: order.threads, device },
    (qwen) => measure(PROFILES[order.figure], qwen, profile),
  );
  console.log(JSON.stringify({ figure: order.figure, ...result } satisfies ProfileResult));
  await own.dispose();
}
