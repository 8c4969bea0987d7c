import { stat } from "node:fs/promises";
import { homedir } from "node:os";
import { join, resolve } from "node:path";
import { isMissing } from "../json-file.ts";
import { findCached } from "./cache.ts";
import { type DownloadOptions, downloadModel } from "./download.ts";
import { HubError } from "./errors.ts";
import { isModelName } from "./names.ts";
import type { HubSource } from "./protocols.ts";

export interface ResolveOptions extends Omit<DownloadOptions, "model"> {
  /** False: use only what is on disk. Default true. */
  download?: boolean;
}

export interface ResolvedModel {
  readonly dir: string;
  /** `folder`: the name was a folder's; `gguf`: that of a GGUF file, which `dir` is then. */
  readonly source: HubSource | "folder" | "gguf";
  /** True if files came over the network just now. */
  readonly downloaded: boolean;
}

async function isFile(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isFile();
  } catch (error) {
    if (isMissing(error)) return false;
    throw error;
  }
}

async function isFolder(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isDirectory();
  } catch (error) {
    if (isMissing(error)) return false;
    throw error;
  }
}

/**
 * Finds a model by what a user calls it: a folder or a GGUF file, else a name in the caches, else a name to download.
 *
 * @throws HubError that says why there is no such model and what to do
 */
export async function resolveModel(nameOrDir: string, options: ResolveOptions = {}): Promise<ResolvedModel> {
  const path = /^~(\/|$)/.test(nameOrDir) ? join(homedir(), nameOrDir.slice(1)) : nameOrDir;
  if (nameOrDir !== "" && (await isFolder(path))) {
    const dir = resolve(path);
    if (await isFile(join(dir, "config.json"))) return { dir, source: "folder", downloaded: false };
    throw new HubError("invalid", `${dir} is a folder without config.json; give the folder of a model`);
  }
  if (path.toLowerCase().endsWith(".gguf")) {
    if (await isFile(path)) return { dir: resolve(path), source: "gguf", downloaded: false };
    throw new HubError("invalid", `there is no file ${JSON.stringify(nameOrDir)}`);
  }
  if (!isModelName(nameOrDir)) {
    throw new HubError(
      "invalid",
      `there is no folder ${JSON.stringify(nameOrDir)}, and it is not a model's name such as Qwen/Qwen2.5-0.5B-Instruct`,
    );
  }
  if (options.download ?? true) return downloadModel({ ...options, model: nameOrDir });
  const cached = await findCached(nameOrDir, options);
  if (cached) return { ...cached, downloaded: false };
  throw new HubError("not-found", `${nameOrDir} is not on this computer; download it first`);
}
