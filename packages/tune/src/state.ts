import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { writeAtomically } from "@tslm/data";
import { z } from "zod";
import { resultSchema } from "./result.ts";
import { type Space, settingsSchema } from "./space.ts";

export const STATE_FILE = "tune.json";
const FORMAT = 1;

const dimension = z.union([
  z.object({ values: z.array(z.number()).min(1) }),
  z.object({ min: z.number(), max: z.number() }),
]);

/** A search as it is on the disk: what it was asked for, and every finished training. */
export const searchStateSchema = z.object({
  format: z.literal(FORMAT, {
    error: ({ input }) => `is ${JSON.stringify(input)}; this program reads format ${FORMAT}, a newer one may read it`,
  }),
  /** The search's own name: no two have the same. */
  id: z.string(),
  seed: z.int().min(0),
  factor: z.number().gt(1),
  space: z.object({
    ...Object.fromEntries(Object.keys(settingsSchema.shape).map((name) => [name, dimension])),
    epochs: dimension,
  }) as unknown as z.ZodType<Space>,
  budget: z.object({ runs: z.int().min(1).optional(), seconds: z.number().positive().optional() }),
  /** Options of `train` that all trials share: flag and value, as on the command line. */
  fixed: z.array(z.tuple([z.string(), z.string().nullable()])),
  /** SHA-256 of the data. */
  data: z.string(),
  /** Seconds so far. */
  seconds: z.number().min(0),
  results: z.array(resultSchema),
});
export type SearchState = z.output<typeof searchStateSchema>;

/** A search that cannot be gone on with, or a place where none is; a sentence for people. */
export class TuneError extends Error {
  override readonly name = "TuneError";
}

/** The state of a new search. */
export function newState(search: Omit<SearchState, "format" | "seconds" | "results">): SearchState {
  return { format: FORMAT, ...search, seconds: 0, results: [] };
}

/** Writes a search's state into its folder: it is there whole or as it was. */
export async function writeState(folder: string, state: SearchState): Promise<void> {
  await writeAtomically(join(folder, STATE_FILE), (write) => write(`${JSON.stringify(state, null, 1)}\n`));
}

/**
 * Reads a search's state.
 * @returns undefined where there is none
 * @throws TuneError when it is broken or of a newer format
 */
export async function readState(folder: string): Promise<SearchState | undefined> {
  const path = join(folder, STATE_FILE);
  const text = await readFile(path, "utf8").catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT" || error.code === "ENOTDIR") return undefined;
    throw new TuneError(`${path}: cannot be read (${error.code})`);
  });
  if (text === undefined) return undefined;
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    throw new TuneError(`${path}: is no JSON, so it was changed by something else; begin a new search`);
  }
  const parsed = searchStateSchema.safeParse(json);
  if (parsed.success) return parsed.data;
  const [{ path: where, message }] = parsed.error.issues;
  throw new TuneError(`${path}: ${where.join(".")} ${message}`);
}
