import { join } from "node:path";
import { z } from "zod";
import { checkJson, finishSave, readJson } from "./folder.ts";

export const RECORD_FILE = "training.json";
const FORMAT = 1;

const step = z.looseObject({
  step: z.int().min(1),
  epoch: z.int().min(1),
  loss: z.number(),
  token_accuracy: z.number().optional(),
  grad_norm: z.number(),
  lr: z.number(),
  tokens: z.int().min(0),
  seconds: z.number().min(0),
});

/** What was run to make an adapter: enough to tell what it is and to do it again. More fields may stand beside these, in the steps too. */
export const trainingRecordSchema = z.looseObject({
  format: z.literal(FORMAT, {
    error: ({ input }) => `is ${JSON.stringify(input)}; this program reads format ${FORMAT}, a newer one may read it`,
  }),
  /** When the run ended, ISO 8601. */
  finished: z.iso.datetime(),
  base_model: z.string(),
  data: z.looseObject({ file: z.string().optional(), examples: z.int().min(1), tokens: z.int().min(1) }),
  /** The settings by their names on the command line. */
  options: z.record(z.string(), z.unknown()),
  steps: z.array(step),
});

export type TrainingRecord = z.output<typeof trainingRecordSchema>;

/** A record of a run that ended now. `run` may hold more than the schema names. */
export function trainingRecord(run: Omit<TrainingRecord, "format" | "finished">): TrainingRecord {
  return trainingRecordSchema.parse({ format: FORMAT, finished: new Date().toISOString(), ...run });
}

/** The text of a `training.json`. */
export function formatRecord(record: TrainingRecord): string {
  return `${JSON.stringify(trainingRecordSchema.parse(record), null, 2)}\n`;
}

/**
 * The `training.json` of an adapter's folder; undefined where there is none.
 * @throws AdapterError when it is broken or of a newer format
 */
export async function readRecord(folder: string): Promise<TrainingRecord | undefined> {
  await finishSave(folder);
  const path = join(folder, RECORD_FILE);
  const json = await readJson(path);
  return json === undefined ? undefined : checkJson(trainingRecordSchema, json, path);
}
