import {
  copyFile,
  link,
  lstat,
  mkdir,
  readdir,
  readFile,
  rename,
  rm,
  stat,
  symlink,
  writeFile,
} from "node:fs/promises";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import { z } from "zod";
import { checkShape } from "../check-shape.ts";
import { ModelFileError } from "../errors.ts";
import { isMissing, readJsonFile } from "../json-file.ts";
import { checkModelName, checkRevision, isWeightFile } from "./names.ts";
import {
  DEFAULT_REVISIONS,
  HUB_SOURCES,
  type HubSource,
  type Listing,
  type Remote,
  type RemoteFile,
} from "./protocols.ts";

export type Env = Readonly<Record<string, string | undefined>>;

/** A model found on disk. */
export interface CachedModel {
  readonly dir: string;
  readonly source: HubSource;
}

export interface FindOptions {
  /** Look only where this hub's tools keep models. Default: both, ModelScope first. */
  source?: HubSource;
  /** Folder to look in instead of the hubs' own caches. */
  cache?: string;
  /** Branch, tag or commit. Default: the newest that was downloaded. */
  revision?: string;
  env?: Env;
}

const MAX_INDEX_BYTES = 64 << 20;
const COMMIT = /^[0-9a-f]{40}$/;

function expand(path: string): string {
  return path === "~" || path.startsWith("~/") ? join(homedir(), path.slice(2)) : path;
}

/** Where a hub's own tools keep what they download, unless `cache` says otherwise. */
export function cacheRoot(source: HubSource, cache: string | undefined, env: Env): string {
  if (cache !== undefined) return expand(cache);
  if (source === "modelscope") return expand(env.MODELSCOPE_CACHE || "~/.cache/modelscope/hub");
  const home = env.HF_HOME || join(env.XDG_CACHE_HOME || "~/.cache", "huggingface");
  return expand(env.HF_HUB_CACHE || env.HUGGINGFACE_HUB_CACHE || join(home, "hub"));
}

/** ModelScope's tools up to 1.37 write dots of a name so; newer ones find such folders. */
const withoutDots = (name: string) => name.replaceAll(".", "___");

/** Where a model's files go, so that the hub's own tools find them. */
export interface CacheLayout {
  /** The model's folder. */
  readonly dir: string;
  /** Taken while files are written. */
  readonly lock: string;
  /** Final and temporary path of a file, on one file system. */
  place(file: RemoteFile): { final: string; partial: string };
  /** A file that is there is known to be whole by its name and size. */
  readonly contentAddressed: boolean;
  /** Makes the complete set of files visible. */
  finish(files: readonly RemoteFile[]): Promise<void>;
}

/** The layout in which a listing is stored. */
export function cacheLayout(root: string, remote: Remote, listing: Listing): CacheLayout {
  return remote.source === "huggingface"
    ? huggingFaceLayout(root, remote, listing.commit!)
    : modelScopeLayout(root, remote);
}

/** `models--org--name/{blobs,refs,snapshots}`: https://huggingface.co/docs/huggingface_hub/guides/manage-cache */
function huggingFaceLayout(root: string, { model, revision }: Remote, commit: string): CacheLayout {
  const folder = `models--${model.replace("/", "--")}`;
  const repo = join(root, folder);
  const dir = join(repo, "snapshots", commit);
  const blob = (file: RemoteFile) => join(repo, "blobs", file.digest!.hex);
  return {
    dir,
    lock: join(root, ".locks", folder, "tslm.lock"),
    // Not their `<blob>.incomplete`: they would write to it at the same time under a lock of their own.
    place: (file) => ({ final: blob(file), partial: `${blob(file)}.tslm.incomplete` }),
    contentAddressed: true,
    finish: async (files) => {
      await mkdir(dir, { recursive: true });
      for (const file of files) await pointTo(join("..", "..", "blobs", file.digest!.hex), join(dir, file.name));
      if (revision !== commit) await writeAtomically(join(repo, "refs", ...revision.split("/")), commit);
    },
  };
}

/** `models/org/name`, dots as `___`, with the index files by which ModelScope's tools know what they have. */
function modelScopeLayout(root: string, { model, revision }: Remote): CacheLayout {
  const [org, name] = model.split("/") as [string, string];
  const dir = join(root, "models", org, withoutDots(name));
  return {
    dir,
    lock: join(root, ".lock", `${org}___${name}.tslm.lock`),
    place: (file) => ({
      final: join(dir, file.name),
      partial: join(root, "models", "._____temp", org, name, `${file.name}.tslm.incomplete`),
    }),
    contentAddressed: false,
    finish: async (files) => {
      const index = files.filter((f) => f.commit !== undefined).map((f) => ({ Path: f.name, Revision: f.commit! }));
      await writeAtomically(join(dir, ".msc"), pickle(index));
      await writeAtomically(join(dir, ".mdl"), pickle({ id: model }));
      await writeAtomically(join(dir, ".mv"), `Revision:${revision},CreatedAt:${Math.floor(Date.now() / 1000)}`);
      // Their tools add this link for people; without the right to make links it is no loss.
      if (name.includes(".")) await symlink(withoutDots(name), join(root, "models", org, name), "dir").catch(() => {});
    },
  };
}

/**
 * Python's pickle (protocol 0) of texts, objects and lists, in which ModelScope keeps its index. The texts are names
 * and commits that have been checked to be plain ASCII without line breaks.
 */
export function pickle(value: unknown): string {
  const write = (value: unknown): string => {
    if (typeof value === "string") return `V${value}\n`;
    if (Array.isArray(value)) return `(l${value.map((item) => `${write(item)}a`).join("")}`;
    return `(d${Object.entries(value as object)
      .map(([key, item]) => `${write(key)}${write(item)}s`)
      .join("")}`;
  };
  return `${write(value)}.`;
}

/** Puts a link at `path`; where links are not allowed, a second name of the file or a copy. Replaces what is there. */
async function pointTo(target: string, path: string): Promise<void> {
  const temporary = `${path}.tslm.link`;
  await rm(temporary, { force: true });
  try {
    await symlink(target, temporary);
  } catch {
    const source = join(dirname(path), target);
    await link(source, temporary).catch(() => copyFile(source, temporary));
  }
  await rename(temporary, path);
}

async function writeAtomically(path: string, content: string): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  const temporary = `${path}.tslm.new`;
  await writeFile(temporary, content);
  await rename(temporary, path);
}

const indexSchema = z.looseObject(
  { weight_map: z.record(z.string(), z.string(), { error: "must map tensors to files" }) },
  { error: "must be a JSON object" },
);

/**
 * The weight files that an index (`model.safetensors.index.json`) names.
 *
 * @returns undefined if there is no such file
 * @throws ModelFileError if it is not what it should be, or names something that is no weight file
 */
export async function readShardNames(file: string): Promise<string[] | undefined> {
  const value = await readJsonFile(file, MAX_INDEX_BYTES);
  if (value === undefined) return undefined;
  const names = [...new Set(Object.values(checkShape(indexSchema, value, file).weight_map))].sort();
  const wrong = names.find((name) => !isWeightFile(name));
  if (names.length > 0 && wrong === undefined) return names;
  throw new ModelFileError(file, wrong === undefined ? "is empty" : `${JSON.stringify(wrong)} is no weight file`, {
    field: "weight_map",
  });
}

async function hasFile(path: string): Promise<boolean> {
  try {
    const info = await stat(path);
    return info.isFile() && info.size > 0;
  } catch (error) {
    if (isMissing(error)) return false;
    throw error;
  }
}

/** True if a folder holds all that is needed to run a model: config, tokenizer and every weight file. */
export async function isCompleteModel(dir: string): Promise<boolean> {
  let weights: string[];
  try {
    weights = (await readShardNames(join(dir, "model.safetensors.index.json"))) ?? ["model.safetensors"];
  } catch (error) {
    if (error instanceof ModelFileError) return false;
    throw error;
  }
  for (const name of ["config.json", "tokenizer.json", "tokenizer_config.json", ...weights]) {
    if (!(await hasFile(join(dir, name)))) return false;
  }
  return true;
}

/**
 * Finds a complete model that this package or the hubs' own tools have downloaded. Touches no network.
 *
 * @throws HubError `invalid` if the name or the revision cannot be one
 */
export async function findCached(model: string, options: FindOptions = {}): Promise<CachedModel | undefined> {
  checkModelName(model);
  if (options.revision !== undefined) checkRevision(options.revision);
  const env = options.env ?? process.env;
  for (const source of options.source ? [options.source] : HUB_SOURCES) {
    const root = cacheRoot(source, options.cache, env);
    const candidates =
      source === "huggingface"
        ? huggingFaceFolders(root, model, options.revision)
        : modelScopeFolders(root, options.cache === undefined && !env.MODELSCOPE_CACHE, model, options.revision);
    for await (const dir of candidates) if (await isCompleteModel(dir)) return { dir, source };
  }
  return undefined;
}

async function list(dir: string): Promise<string[]> {
  return readdir(dir).catch(() => []);
}

async function readShort(path: string): Promise<string | undefined> {
  try {
    return (await lstat(path)).size > 256 ? undefined : await readFile(path, "utf8");
  } catch {
    return undefined;
  }
}

async function* huggingFaceFolders(root: string, model: string, revision: string | undefined): AsyncGenerator<string> {
  const repo = join(root, `models--${model.replace("/", "--")}`);
  const wanted = revision ?? DEFAULT_REVISIONS.huggingface;
  const commit = COMMIT.test(wanted) ? wanted : (await readShort(join(repo, "refs", ...wanted.split("/"))))?.trim();
  if (commit !== undefined && COMMIT.test(commit)) yield join(repo, "snapshots", commit);
  else if (revision === undefined) {
    for (const name of (await list(join(repo, "snapshots"))).filter((name) => COMMIT.test(name))) {
      yield join(repo, "snapshots", name);
    }
  }
}

/** Every layout that ModelScope's tools have had: flat with and without `models`, and since 1.38 with snapshots. */
async function* modelScopeFolders(
  root: string,
  isDefault: boolean,
  model: string,
  revision: string | undefined,
): AsyncGenerator<string> {
  const [org, name] = model.split("/") as [string, string];
  const names = [...new Set([withoutDots(name), name])];
  // Newer tools keep models beside the `hub` folder of older ones.
  for (const base of [root, isDefault ? dirname(root) : join(root, "hub")]) {
    const flat = [...names.map((n) => join(base, "models", org, n)), ...names.map((n) => join(base, org, n))];
    for (const dir of flat) {
      if (revision === undefined || revision === (await flatRevision(dir))) yield dir;
    }
    const snapshots = join(base, "models", `${org}--${name}`, "snapshots");
    const kept = revision === undefined ? ["master", "main", ...(await list(snapshots))] : [revision];
    for (const snapshot of new Set(kept)) yield join(snapshots, ...snapshot.split("/"));
  }
}

/** The revision that a flat folder holds; without a note of it, the default branch. */
async function flatRevision(dir: string): Promise<string> {
  const note = await readShort(join(dir, ".mv"));
  return note?.match(/^Revision:([^,\n]*)/)?.[1] ?? DEFAULT_REVISIONS.modelscope;
}
