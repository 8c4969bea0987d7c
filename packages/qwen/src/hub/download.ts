import { mkdir, rm, stat, statfs } from "node:fs/promises";
import { dirname } from "node:path";
import pLimit from "p-limit";
import { ModelFileError } from "../errors.ts";
import { type CacheLayout, cacheLayout, cacheRoot, type Env, findCached, readShardNames } from "./cache.ts";
import { formatBytes, HubError, storageError } from "./errors.ts";
import { HttpClient, type HttpOptions, hostOf } from "./http.ts";
import { acquireLock } from "./lock.ts";
import { checkModelName, checkRevision, isWeightFile } from "./names.ts";
import {
  credentials,
  DEFAULT_ENDPOINTS,
  DEFAULT_REVISIONS,
  HUB_SOURCES,
  type HubSource,
  type Listing,
  listFiles,
  type Remote,
  type RemoteFile,
} from "./protocols.ts";
import { fetchFile, matches } from "./transfer.ts";

/** What a download is doing; for a progress bar. */
export interface DownloadProgress {
  readonly model: string;
  readonly source: HubSource;
  /** `waiting`: another process downloads this model. `checking`: comparing files that are there. */
  readonly phase: "listing" | "waiting" | "checking" | "downloading";
  /** Bytes on disk, of all files together. */
  readonly bytes: number;
  readonly totalBytes: number;
  readonly files: number;
  readonly totalFiles: number;
  /** The file that moved. */
  readonly file?: string;
  /** Why and for how many milliseconds an attempt waits. */
  readonly retry?: { readonly reason: string; readonly delay: number };
}

export interface DownloadOptions {
  /** `org/name`. */
  model: string;
  /** Default: ModelScope, then, if that fails, Hugging Face. */
  source?: HubSource;
  /** Another server that speaks the source's protocol. Default: the environment's (`MODELSCOPE_ENDPOINT`, `HF_ENDPOINT`). */
  endpoint?: string;
  /** Folder to keep models in, instead of the one the hub's own tools use. */
  cache?: string;
  /** Branch, tag or commit. Default: `master` at ModelScope, `main` at Hugging Face. */
  revision?: string;
  /** Default: the environment's (`MODELSCOPE_API_TOKEN`, `HF_TOKEN`). */
  token?: string;
  onProgress?: (progress: DownloadProgress) => void;
  signal?: AbortSignal;
  /** Files at a time. Default 4. */
  concurrency?: number;
  http?: HttpOptions;
  /** Refuse a model of more bytes. Default 1 TB. */
  maxBytes?: number;
  env?: Env;
}

/** A model's folder and where it came from. */
export interface DownloadedModel {
  readonly dir: string;
  readonly source: HubSource;
  /** False if it was there already and no network was touched. */
  readonly downloaded: boolean;
}

const MAX_MODEL_BYTES = 1e12;
/** Config, tokenizer and the like; Qwen2.5's tokenizer.json has 7 MB. */
const MAX_METADATA_BYTES = 128 << 20;
/** Failures of one hub after which the other may still have the model. */
const OTHER_HUB_MAY_HELP = new Set([
  "not-found",
  "unauthorized",
  "rate-limited",
  "unavailable",
  "protocol",
  "checksum",
]);

/**
 * Makes a model available on disk: finds it in the cache, or downloads the files that are needed to run it. Files come
 * in parallel, continue where an earlier download broke off, are checked by size and checksum and renamed into place
 * when whole. Config and tokenizer come first, so that whole weights mean a whole model.
 *
 * @throws HubError whose message says what to do; the signal's reason if it is aborted
 * @example
 * const { dir } = await downloadModel({ model: "Qwen/Qwen2.5-0.5B-Instruct" });
 */
export async function downloadModel(options: DownloadOptions): Promise<DownloadedModel> {
  checkModelName(options.model);
  if (options.revision !== undefined) checkRevision(options.revision);
  if (options.source !== undefined && !HUB_SOURCES.includes(options.source)) {
    throw new HubError("invalid", `${JSON.stringify(options.source)} is no source; use ${HUB_SOURCES.join(" or ")}`);
  }
  const { concurrency = 4 } = options;
  if (!Number.isInteger(concurrency) || concurrency < 1 || concurrency > 64) {
    throw new HubError("invalid", `concurrency must be a whole number from 1 to 64, but is ${concurrency}`);
  }
  const cached = await findCached(options.model, options);
  if (cached) return { ...cached, downloaded: false };

  // An endpoint speaks one protocol, so it is not tried with the other.
  const sources = options.source ? [options.source] : options.endpoint ? [HUB_SOURCES[0]!] : HUB_SOURCES;
  const failures: HubError[] = [];
  for (const source of sources) {
    try {
      return { dir: await downloadFrom(source, options), source, downloaded: true };
    } catch (error) {
      if (!(error instanceof HubError) || !OTHER_HUB_MAY_HELP.has(error.code)) throw error;
      failures.push(error);
    }
  }
  if (failures.length === 1) throw failures[0]!;
  const [first, second] = failures as [HubError, HubError];
  const isSame = first.advice === second.advice;
  const problems = [isSame ? first.problem : first.message, second.problem].join("; ");
  throw new HubError(first.code, `${options.model} can be had from neither hub: ${problems}`, {
    advice: second.advice,
    cause: new AggregateError(failures),
  });
}

function resolveEndpoint(source: HubSource, given: string | undefined, env: Env): string {
  const fromEnv = source === "huggingface" ? env.HF_ENDPOINT : env.MODELSCOPE_ENDPOINT;
  const text = given || fromEnv || DEFAULT_ENDPOINTS[source];
  const url = URL.canParse(text) ? new URL(text) : undefined;
  const plain = url && /^https?:$/.test(url.protocol) && url.username === "" && url.search === "" && url.hash === "";
  if (plain) return `${url.origin}${url.pathname}`.replace(/\/+$/, "");
  const shown = text.includes("@") ? "given" : JSON.stringify(text); // what is before an @ may be a password
  throw new HubError("invalid", `the endpoint ${shown} is not an address such as ${DEFAULT_ENDPOINTS[source]}`);
}

function resolveToken(source: HubSource, endpoint: string, given: string | undefined, env: Env): string | undefined {
  const fromEnv = source === "huggingface" ? env.HF_TOKEN || env.HUGGING_FACE_HUB_TOKEN : env.MODELSCOPE_API_TOKEN;
  const token = given || fromEnv;
  if (!token) return undefined;
  if (!/^[\x21-\x7e]+$/.test(token)) throw new HubError("invalid", "the token has characters that no token has");
  const { protocol, hostname } = new URL(endpoint);
  if (protocol === "https:" || ["localhost", "127.0.0.1", "[::1]"].includes(hostname)) return token;
  throw new HubError("invalid", `a token would go unencrypted to ${endpoint}; use an https:// endpoint`);
}

async function downloadFrom(source: HubSource, options: DownloadOptions): Promise<string> {
  const env = options.env ?? process.env;
  const endpoint = resolveEndpoint(source, options.endpoint, env);
  if (source === "huggingface" && /^(1|true|on|yes)$/i.test(env.HF_HUB_OFFLINE ?? "")) {
    throw new HubError(
      "unavailable",
      `${hostOf(endpoint)} is not asked, because HF_HUB_OFFLINE is set; unset it to download`,
    );
  }
  const token = resolveToken(source, endpoint, options.token, env);
  const remote: Remote = {
    source,
    endpoint,
    model: options.model,
    revision: options.revision ?? DEFAULT_REVISIONS[source],
  };

  // One file's failure ends the others: nobody waits for gigabytes of a download that has failed.
  const stop = new AbortController();
  const signal = options.signal ? AbortSignal.any([options.signal, stop.signal]) : stop.signal;
  const http = new HttpClient(options.http ?? {}, signal, token ? credentials(source, endpoint, token) : undefined);
  const progress = new Progress(remote, options.onProgress);
  progress.report("listing");
  const listing = await listFiles(http, remote);
  checkListing(listing, remote, options.maxBytes ?? MAX_MODEL_BYTES);

  const layout = cacheLayout(cacheRoot(source, options.cache, env), remote, listing);
  const release = await acquireLock(layout.lock, { signal, onWait: () => progress.report("waiting") });
  try {
    const download = new ModelDownload(http, remote, layout, progress, options.concurrency ?? 4, stop);
    await download.fetchAll(listing);
  } catch (error) {
    options.signal?.throwIfAborted();
    throw storageError(error, layout.dir, "downloading");
  } finally {
    await release();
  }
  return layout.dir;
}

function checkListing({ files }: Listing, { endpoint, model }: Remote, maxBytes: number): void {
  const hub = hostOf(endpoint);
  const missing = ["config.json", "tokenizer.json", "tokenizer_config.json"].filter(
    (name) => !files.some((file) => file.name === name),
  );
  if (!files.some((file) => isWeightFile(file.name))) missing.push("model*.safetensors");
  if (missing.length > 0) {
    throw new HubError(
      "not-found",
      `${model} at ${hub} has no ${missing.join(" and no ")}; choose a model in safetensors format`,
    );
  }
  for (const { name, size } of files) {
    if (!isWeightFile(name) && size > MAX_METADATA_BYTES) {
      throw new HubError(
        "too-large",
        `${name} of ${model} at ${hub} has ${formatBytes(size)}; at most ${formatBytes(MAX_METADATA_BYTES)} are reasonable`,
      );
    }
  }
  const total = files.reduce((sum, file) => sum + file.size, 0);
  if (total > maxBytes) {
    throw new HubError(
      "too-large",
      `${model} at ${hub} has ${formatBytes(total)}; the limit is ${formatBytes(maxBytes)}`,
    );
  }
}

class Progress {
  readonly #remote: Remote;
  readonly #listener: ((progress: DownloadProgress) => void) | undefined;
  readonly #bytes = new Map<string, number>();
  readonly #done = new Set<string>();
  #expected: readonly RemoteFile[] = [];

  constructor(remote: Remote, listener: ((progress: DownloadProgress) => void) | undefined) {
    this.#remote = remote;
    this.#listener = listener;
  }

  expect(files: readonly RemoteFile[]): void {
    this.#expected = files;
  }

  report(phase: DownloadProgress["phase"], file?: string, retry?: DownloadProgress["retry"]): void {
    if (!this.#listener) return;
    let [bytes, totalBytes, files] = [0, 0, 0];
    for (const { name, size } of this.#expected) {
      bytes += this.#bytes.get(name) ?? 0;
      totalBytes += size;
      if (this.#done.has(name)) files++;
    }
    const { model, source } = this.#remote;
    this.#listener({ model, source, phase, bytes, totalBytes, files, totalFiles: this.#expected.length, file, retry });
  }

  set(phase: DownloadProgress["phase"], file: string, bytes: number): void {
    this.#bytes.set(file, bytes);
    this.report(phase, file);
  }

  finish(phase: DownloadProgress["phase"], file: RemoteFile): void {
    this.#done.add(file.name);
    this.set(phase, file.name, file.size);
  }
}

/** The files of one model on their way into the cache. */
class ModelDownload {
  readonly #http: HttpClient;
  readonly #remote: Remote;
  readonly #layout: CacheLayout;
  readonly #progress: Progress;
  readonly #concurrency: number;
  readonly #stop: AbortController;

  constructor(
    http: HttpClient,
    remote: Remote,
    layout: CacheLayout,
    progress: Progress,
    concurrency: number,
    stop: AbortController,
  ) {
    this.#http = http;
    this.#remote = remote;
    this.#layout = layout;
    this.#progress = progress;
    this.#concurrency = concurrency;
    this.#stop = stop;
  }

  async fetchAll(listing: Listing): Promise<void> {
    const metadata = listing.files.filter((file) => !isWeightFile(file.name));
    this.#progress.expect(listing.files);
    const missing = await this.#check(listing.files);
    await this.#fetch(metadata.filter((file) => missing.has(file)));
    const weights = await this.#chooseWeights(listing);
    this.#progress.expect([...metadata, ...weights]);
    await this.#fetch(weights.filter((file) => missing.has(file)));
    await this.#layout.finish([...metadata, ...weights]);
  }

  /**
   * Which files are not there, or are another revision's. The latter are removed at once: a folder must not look like a
   * whole model while it holds files of two revisions.
   */
  async #check(files: readonly RemoteFile[]): Promise<Set<RemoteFile>> {
    const missing = new Set<RemoteFile>();
    for (const file of files) {
      this.#progress.report("checking", file.name);
      const { final } = this.#layout.place(file);
      if (await matches(final, file, this.#layout.contentAddressed, this.#http.signal)) {
        this.#progress.finish("checking", file);
      } else {
        missing.add(file);
        await rm(final, { force: true });
      }
    }
    return missing;
  }

  /** The weight files that the index names, or the only one: a repository may hold other sets beside them. */
  async #chooseWeights({ files }: Listing): Promise<RemoteFile[]> {
    const index = files.find((file) => file.name === "model.safetensors.index.json");
    const single = files.find((file) => file.name === "model.safetensors");
    const hub = hostOf(this.#remote.endpoint);
    if (!index) {
      if (single) return [single];
      throw new HubError(
        "not-found",
        `${this.#remote.model} at ${hub} has neither model.safetensors nor an index of its parts`,
      );
    }
    let names: string[];
    try {
      names = (await readShardNames(this.#layout.place(index).final))!;
    } catch (error) {
      if (!(error instanceof ModelFileError)) throw error;
      throw new HubError("protocol", `the index of ${this.#remote.model} at ${hub} cannot be used: ${error.message}`, {
        cause: error,
      });
    }
    return names.map((name) => {
      const file = files.find((file) => file.name === name);
      if (file) return file;
      throw new HubError("not-found", `${this.#remote.model} at ${hub} lacks ${name}, which its index names`);
    });
  }

  async #fetch(files: readonly RemoteFile[]): Promise<void> {
    if (files.length === 0) return;
    await this.#checkSpace(files);
    const limit = pLimit(this.#concurrency);
    let first: unknown;
    await Promise.all(
      files.map((file) =>
        limit(async () => {
          try {
            this.#http.signal?.throwIfAborted();
            await fetchFile({
              http: this.#http,
              remote: this.#remote,
              file,
              ...this.#layout.place(file),
              onBytes: (bytes) => this.#progress.set("downloading", file.name, bytes),
              onRetry: (reason, delay) => this.#progress.report("downloading", file.name, { reason, delay }),
            });
            this.#progress.finish("downloading", file);
          } catch (error) {
            first ??= error;
            this.#stop.abort(first);
          }
        }),
      ),
    );
    if (first !== undefined) throw first;
  }

  /** Says that the disk is too small before it is full. */
  async #checkSpace(files: readonly RemoteFile[]): Promise<void> {
    let needed = 0;
    for (const file of files) {
      const { partial } = this.#layout.place(file);
      needed +=
        file.size -
        (await stat(partial).then(
          (info) => Math.min(info.size, file.size),
          () => 0,
        ));
    }
    const folder = dirname(this.#layout.place(files[0]!).final);
    await mkdir(folder, { recursive: true });
    const { bavail, bsize } = await statfs(folder);
    if (bavail * bsize >= needed) return;
    throw new HubError(
      "disk-full",
      `${this.#remote.model} needs ${formatBytes(needed)} more in ${folder}, but only ${formatBytes(bavail * bsize)} are free: free some space, or choose another cache folder`,
    );
  }
}
