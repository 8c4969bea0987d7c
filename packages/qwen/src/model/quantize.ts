import { createHash } from "node:crypto";
import { mkdir, readdir, realpath, rm, stat } from "node:fs/promises";
import { homedir } from "node:os";
import { basename, join } from "node:path";
import { setImmediate } from "node:timers/promises";
import {
  type GgufFile,
  noGrad,
  openGguf,
  type QuantizableType,
  type Tensor,
  TensorError,
  writeGguf,
} from "@tslm/tensor";
import { ggufName } from "../gguf/names.ts";

/** How weights are rounded: 8 bits an element, or 4 with 8 for the few that matter most; see {@link quantizedType}. */
export const QUANTIZATIONS = ["q8", "q4"] as const;
export type Quantization = (typeof QUANTIZATIONS)[number];

/** Raised whenever the same weights would be rounded otherwise. */
const VERSION = 2;

/** Weights that keep 8 bits: see quantizedType. */
export const PRECISE = /^(model\.embed_tokens|lm_head|model\.layers\.\d+\.self_attn\.[kv]_proj)\.weight$/;

/**
 * What a parameter becomes; undefined where it stays: biases and norms, and matrices whose rows are no whole blocks of
 * 32. The output projection keeps 8 bits, because its errors go straight into the choice of a token, and so do those
 * of keys and values, which are small and whose errors every later token sees: on the 0.5B model they halve the
 * perplexity that 4 bits cost (5.5 % to 2.4 %) for 2 of 370 MB.
 */
export function quantizedType(name: string, t: Tensor, kind: Quantization): QuantizableType | undefined {
  if (t.rank !== 2 || t.shape[1] % 32 !== 0 || (t.dtype !== "bf16" && t.dtype !== "f32")) return undefined;
  return kind === "q8" || PRECISE.test(name) ? "q8_0" : "q4_1";
}

/** Rounds the parameters one after another; what they were is disposed of. */
export async function quantizeAll(
  tensors: Map<string, Tensor>,
  kind: Quantization,
  { signal, onProgress }: { signal?: AbortSignal; onProgress?: (done: number, total: number) => void } = {},
): Promise<void> {
  let done = 0;
  for (const [name, t] of tensors) {
    await setImmediate();
    signal?.throwIfAborted();
    const type = quantizedType(name, t, kind);
    if (type !== undefined) {
      tensors.set(name, noGrad(() => t.to(type)).keep());
      t.dispose();
    }
    onProgress?.(++done, tensors.size);
  }
}

/** Where rounded weights are kept: `$XDG_CACHE_HOME/tslm/quantized`, by default below `~/.cache`. */
export function quantizedFolder(env: Readonly<Record<string, string | undefined>> = process.env): string {
  return join(env.XDG_CACHE_HOME || join(homedir(), ".cache"), "tslm", "quantized");
}

/** A place for the rounded weights of one model in its present state. */
export interface QuantizedPlace {
  readonly path: string;
  /** Names of files that hold earlier states of the same begin so. */
  readonly prefix: string;
}

/** The place for a model folder's weights; it changes when any of `files` does. */
export async function quantizedPlace(
  dir: string,
  files: readonly string[],
  kind: Quantization,
  folder = quantizedFolder(),
): Promise<QuantizedPlace> {
  const hash = (...parts: (string | number)[]) =>
    createHash("sha256").update(parts.join("\n")).digest("hex").slice(0, 16);
  const path = await realpath(dir);
  const state: (string | number)[] = [VERSION];
  for (const file of files) {
    const { size, mtimeMs } = await stat(file);
    state.push(basename(file), size, mtimeMs);
  }
  const name = basename(path).replaceAll(/[^\w.-]/g, "_");
  const prefix = `${name}-${hash(path)}-${kind}-`;
  return { path: join(folder, `${prefix}${hash(...state)}.gguf`), prefix };
}

/** The kept weights, or undefined when there are none or they cannot be read. */
export async function openQuantized({ path }: QuantizedPlace): Promise<GgufFile | undefined> {
  try {
    return await openGguf(path);
  } catch (error) {
    if (error instanceof TensorError) return undefined;
    throw error;
  }
}

/**
 * Keeps rounded weights and removes those of earlier states. A folder that cannot be written to is no error: they are
 * rounded again the next time.
 *
 * @returns the file, or undefined
 */
export async function keepQuantized(
  place: QuantizedPlace,
  tensors: ReadonlyMap<string, Tensor>,
): Promise<GgufFile | undefined> {
  const folder = join(place.path, "..");
  try {
    await mkdir(folder, { recursive: true });
    const named = new Map([...tensors].map(([name, t]) => [ggufName(name), t]));
    await writeGguf(place.path, named, new Map([["general.architecture", "qwen2"]]));
    for (const name of await readdir(folder)) {
      if (name.startsWith(place.prefix) && name !== basename(place.path)) await rm(join(folder, name), { force: true });
    }
    return await openGguf(place.path);
  } catch (error) {
    const system = error instanceof TensorError || typeof (error as NodeJS.ErrnoException).code === "string";
    if (system) return undefined;
    throw error;
  }
}
