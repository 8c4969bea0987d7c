import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { readdir, rmdir, writeFile } from "node:fs/promises";
import { basename, dirname, join, relative, resolve } from "node:path";
import { openSafetensors, type SafetensorsFile, TensorError, writeSafetensors } from "@tslm/tensor";
import { z } from "zod";
import { adapterFiles, type SaveOptions } from "../adapter.ts";
import { AdapterError, CheckpointError } from "../errors.ts";
import { checkJson, createFolder, type FileContent, readJson, removeFolder } from "../folder.ts";
import { type SavedState, type StateKeeper, type TrainingState, trainingProgressSchema } from "./state.ts";

/** The folder of a run's checkpoints, inside the adapter's. */
export const CHECKPOINTS_FOLDER = "checkpoints";
/** Weights, moments and the best weights, exactly as they are in memory. */
const TENSORS_FILE = "training_state.safetensors";
const STATE_FILE = "training_state.json";
const FORMAT = 1;
const NAME = /^step-(\d+)$/;
/** So many checkpoints of a run are kept. */
const KEPT = 2;
/** Without a number of steps: so many seconds between two checkpoints, and at least so many times what one takes. */
const EVERY_SECONDS = 60;
const EVERY_COSTS = 50;

/** What a run was started with: it can only go on with the same. */
export const runSettingsSchema = z.object({
  /** Settings by their names, the adapter's among them. */
  options: z.record(z.string(), z.unknown()),
  /** Fingerprints. */
  base_model: z.string(),
  data: z.string(),
  validation: z.string().optional(),
});
export type RunSettings = z.output<typeof runSettingsSchema>;

const checkpointSchema = z.object({
  format: z.literal(FORMAT, {
    error: ({ input }) => `is ${JSON.stringify(input)}; this program reads format ${FORMAT}, a newer one may read it`,
  }),
  step: z.int().min(1),
  total: z.int().min(1),
  settings: runSettingsSchema,
  /** What else the caller wants to have again. */
  extra: z.unknown().optional(),
  progress: trainingProgressSchema,
  /** SHA-256 of the file of tensors. */
  tensors: z.string(),
});

/** A checkpoint as it was found. */
export interface Checkpoint {
  readonly folder: string;
  readonly step: number;
  /** Steps of the whole run. */
  readonly total: number;
  readonly settings: RunSettings;
  readonly extra: unknown;
  readonly state: SavedState;
}

export interface CheckpointsOptions {
  /** Where they are kept; see {@link CHECKPOINTS_FOLDER}. */
  folder: string;
  settings: RunSettings;
  /** Anything that is JSON. */
  extra?: unknown;
  /** A checkpoint is an adapter too; this is what stands beside its weights. */
  adapter?: SaveOptions;
  /** Steps between two; 0: only when the run is interrupted. By time unless given: every minute. */
  saveEvery?: number;
  /** The checkpoint that the run goes on from. */
  resumed?: Checkpoint;
  /** Called when one was saved. */
  onSaved?: (folder: string, step: number) => void;
}

/**
 * Keeps a run's state in a folder, so that a run that was killed goes on as though it had not been. A checkpoint is a
 * folder `step-N` that appears in one rename when all of it is on the disk; the last two are kept. Those of another run
 * are removed when the first of this one is there.
 */
export class Checkpoints implements StateKeeper {
  readonly #options: CheckpointsOptions;
  /** Those of this run that lie in the folder, the oldest first. */
  #own: string[] = [];
  #saved: { folder: string; step: number; pending: boolean } | undefined;
  #savedAt = performance.now();
  #cost = 0;
  #isAsked = false;

  constructor(options: CheckpointsOptions) {
    this.#options = options;
    const { resumed } = options;
    if (!resumed) return;
    const { folder, step } = resumed;
    if (resolve(folder, "..") === resolve(options.folder)) this.#own = [folder];
    this.#saved = { folder, step, pending: resumed.state.progress.pending };
  }

  /** The newest checkpoint that is on the disk, the one that the run goes on from included. */
  get last(): { folder: string; step: number } | undefined {
    return this.#saved;
  }

  /** Saves one after the running step. */
  request(): void {
    this.#isAsked = true;
  }

  /** @throws AdapterError when it cannot be written; the ones before it are still there */
  async keep(state: TrainingState, total: number, when: Parameters<StateKeeper["keep"]>[2]): Promise<void> {
    const { step, pending } = state;
    if (step === 0 || (this.#saved?.step === step && this.#saved.pending === pending)) return;
    if (when === "interrupted" || this.#isAsked || this.#isDue(step, when)) await this.#save(state, total);
  }

  /** Removes all of them, as when the run is done, and the adapter's folder where nothing else is in it. */
  async remove(): Promise<void> {
    await removeFolder(this.#options.folder);
    await removeEmpty(dirname(this.#options.folder));
    this.#own = [];
    this.#saved = undefined;
  }

  #isDue(step: number, when: "step" | "end"): boolean {
    const { saveEvery } = this.#options;
    if (saveEvery !== undefined) return saveEvery > 0 && (step % saveEvery === 0 || when === "end");
    const wait = Math.max(EVERY_SECONDS, EVERY_COSTS * this.#cost);
    return when === "step" && performance.now() - this.#savedAt >= 1000 * wait;
  }

  async #save(state: TrainingState, total: number): Promise<void> {
    const begun = performance.now();
    const { folder: parent, settings, extra, adapter, onSaved } = this.#options;
    const { step, progress } = state;
    const folder = join(parent, `step-${step}`);
    const files: Record<string, FileContent> = {
      ...adapterFiles(state.lora, adapter),
      [TENSORS_FILE]: (path) => writeSafetensors(path, state.tensors()),
      [STATE_FILE]: async (path) => {
        const tensors = await sha256(join(dirname(path), TENSORS_FILE));
        await writeFile(path, JSON.stringify({ format: FORMAT, step, total, settings, extra, progress, tensors }));
      },
    };
    try {
      await createFolder(folder, files, () => this.#removeOthers());
    } catch (error) {
      await removeEmpty(parent);
      throw error;
    }
    this.#own = [...this.#own.filter((one) => resolve(one) !== resolve(folder)), folder];
    for (const old of this.#own.splice(0, this.#own.length - KEPT)) await removeFolder(old);
    this.#saved = { folder, step, pending: state.pending };
    this.#isAsked = false;
    this.#savedAt = performance.now();
    this.#cost = (this.#savedAt - begun) / 1000;
    onSaved?.(folder, step);
  }

  /** Removes what is not of this run: an earlier run's, or later steps of this one that could not be read. */
  async #removeOthers(): Promise<void> {
    const { folder } = this.#options;
    const own = new Set(this.#own.map((one) => resolve(one)));
    for (const { name } of await checkpointNames(folder)) {
      if (!own.has(resolve(folder, name))) await removeFolder(join(folder, name));
    }
  }
}

/** Removes a folder in which nothing is. */
async function removeEmpty(folder: string): Promise<void> {
  await rmdir(folder).catch(() => {});
}

/** The checkpoints in a folder, the newest first. */
async function checkpointNames(folder: string): Promise<{ name: string; step: number }[]> {
  const names = await readdir(folder).catch(() => []);
  return names
    .flatMap((name) => {
      const step = NAME.exec(name)?.[1];
      return step === undefined ? [] : [{ name, step: Number(step) }];
    })
    .sort((a, b) => b.step - a.step);
}

/**
 * The newest checkpoint that can be read, and what is wrong with newer ones.
 *
 * @param path an adapter's folder, its folder of checkpoints, or one checkpoint
 * @throws CheckpointError when there is none
 */
export async function findCheckpoint(path: string): Promise<{ checkpoint: Checkpoint; broken: string[] }> {
  const broken: string[] = [];
  for (const folder of await candidates(path)) {
    try {
      return { checkpoint: await openCheckpoint(folder), broken };
    } catch (error) {
      if (!(error instanceof AdapterError || error instanceof TensorError)) throw error;
      broken.push(error.message);
    }
  }
  const problem = broken.length > 0 ? `no checkpoint of it can be read: ${broken[0]}` : "there is no checkpoint in it";
  throw new CheckpointError(`${path}: ${problem}, so there is nothing to go on from; begin anew without --resume`);
}

/** Has an interrupted run left checkpoints in an adapter's folder? The newest one's step. */
export async function leftCheckpoint(adapterFolder: string): Promise<number | undefined> {
  return (await checkpointNames(join(adapterFolder, CHECKPOINTS_FOLDER)))[0]?.step;
}

async function candidates(path: string): Promise<string[]> {
  if (NAME.test(basename(resolve(path)))) return [path];
  const inside = (folder: string) =>
    checkpointNames(folder).then((found) => found.map(({ name }) => join(folder, name)));
  return [...(await inside(join(path, CHECKPOINTS_FOLDER))), ...(await inside(path))];
}

/** The adapter's folder that a checkpoint lies in, from the current folder. */
export function adapterFolderOf({ folder }: Checkpoint): string {
  const parent = resolve(folder, "..");
  const path = basename(parent) === CHECKPOINTS_FOLDER ? dirname(parent) : parent;
  const fromHere = relative("", path);
  return fromHere.startsWith("..") ? path : fromHere || ".";
}

/** @throws AdapterError or TensorError when it is not whole */
async function openCheckpoint(folder: string): Promise<Checkpoint> {
  const path = join(folder, STATE_FILE);
  const json = await readJson(path);
  if (json === undefined) throw new AdapterError(path, "there is no such file");
  const { step, total, settings, extra, progress, tensors } = checkJson(checkpointSchema, json, path);
  const file = join(folder, TENSORS_FILE);
  const opened = await openSafetensors(file);
  try {
    if ((await sha256(file)) !== tensors) throw new AdapterError(file, "its content has changed since it was saved");
    return { folder, step, total, settings, extra, state: { progress, bytes: reader(opened) } };
  } finally {
    opened.close();
  }
}

/** Copies of the tensors' bytes, so that the file may go. */
function reader(file: SafetensorsFile): SavedState["bytes"] {
  const all = new Map(file.names().map((name) => [name, file.bytes(name).slice()]));
  return (name) => all.get(name);
}

async function sha256(path: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(path)) hash.update(chunk as Uint8Array);
  return hash.digest("hex");
}
