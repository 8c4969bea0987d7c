import type { Module } from "@tslm/tensor";
import { isBlocks, type Tensor } from "@tslm/tensor";
import { z } from "zod";

const hex = z.string().regex(/^[0-9a-f]{16}$/);

/**
 * What tells a base model from another, wherever its files lie: hashes of its numbers. Rounding a model's matrices
 * (GGUF, `--quantize`) leaves `vectors` as they are.
 */
export const baseFingerprintSchema = z.object({
  /** Of all biases and norms, in f32. */
  vectors: hex,
  /** Of one row of each matrix, and the type these have; left out where they are quantised. */
  rows: z.object({ dtype: z.string(), sha256: hex }).optional(),
});
export type BaseFingerprint = z.output<typeof baseFingerprintSchema>;

/** Names that an attached adapter gives the layers below it. */
const BELOW_ADAPTER = ".baseLayer.";
const OF_ADAPTER = /\.(loraA|loraB|variant\.[^.]+)$/;

/** The base model's parameters by their own names, with or without an adapter attached. */
export function baseParameters(model: Module): Map<string, Tensor> {
  const found = new Map<string, Tensor>();
  for (const [name, t] of model.namedParameters()) {
    if (!OF_ADAPTER.test(name)) found.set(name.replace(BELOW_ADAPTER, "."), t);
  }
  return new Map([...found].sort(([a], [b]) => (a < b ? -1 : 1)));
}

/** Reads some hundred kilobytes of a model of any size. In browsers pages that came by https (or from this machine) can. */
export async function baseFingerprint(model: Module): Promise<BaseFingerprint> {
  const vectors: Uint8Array[] = [];
  const rows: Uint8Array[] = [];
  const text = new TextEncoder();
  let dtype: string | undefined;
  let quantized = false;
  for (const [name, t] of baseParameters(model)) {
    const label = text.encode(`${name}[${t.shape}]`);
    if (t.rank === 1) {
      vectors.push(label, await bytesOf(t, "f32"));
      continue;
    }
    if (isBlocks(t.dtype) || (dtype !== undefined && t.dtype !== dtype)) quantized = true;
    if (quantized) continue;
    dtype = t.dtype;
    const middle = t.shape[0] >> 1;
    const row = t.slice(0, middle, middle + 1);
    rows.push(label, await bytesOf(row, t.dtype).finally(() => row.dispose()));
  }
  return {
    vectors: await shortSha256(vectors),
    ...(quantized || dtype === undefined ? {} : { rows: { dtype, sha256: await shortSha256(rows) } }),
  };
}

/** The first 16 hexadecimal digits of the hash of pieces one after the other. */
async function shortSha256(pieces: readonly Uint8Array[]): Promise<string> {
  const bytes = await new Blob(pieces as Uint8Array<ArrayBuffer>[]).arrayBuffer();
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest.subarray(0, 8), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function bytesOf(t: Tensor, dtype: Tensor["dtype"]): Promise<Uint8Array> {
  if (t.dtype === dtype) return t.bytes();
  const converted = t.to(dtype);
  return converted.bytes().finally(() => converted.dispose());
}

/**
 * Is this the model that an adapter was trained on? Where one of the two is rounded, only biases and norms tell, which
 * LoRA leaves alone: then a model that an adapter was merged into passes for its base.
 */
export function isSameBase(trained: BaseFingerprint, here: BaseFingerprint): boolean {
  if (trained.vectors !== here.vectors) return false;
  if (trained.rows?.dtype !== here.rows?.dtype) return true;
  return trained.rows?.sha256 === here.rows?.sha256;
}
