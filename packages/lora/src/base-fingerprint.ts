import { createHash } from "node:crypto";
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

/** Reads some hundred kilobytes of a model of any size. */
export async function baseFingerprint(model: Module): Promise<BaseFingerprint> {
  const vectors = createHash("sha256");
  const rows = createHash("sha256");
  let dtype: string | undefined;
  let quantized = false;
  for (const [name, t] of baseParameters(model)) {
    if (t.rank === 1) {
      vectors.update(`${name}[${t.shape}]`).update(await bytesOf(t, "f32"));
      continue;
    }
    if (isBlocks(t.dtype) || (dtype !== undefined && t.dtype !== dtype)) quantized = true;
    if (quantized) continue;
    dtype = t.dtype;
    const middle = t.shape[0] >> 1;
    const row = t.slice(0, middle, middle + 1);
    rows.update(`${name}[${t.shape}]`).update(await bytesOf(row, t.dtype).finally(() => row.dispose()));
  }
  const short = (hash: typeof vectors): string => hash.digest("hex").slice(0, 16);
  return {
    vectors: short(vectors),
    ...(quantized || dtype === undefined ? {} : { rows: { dtype, sha256: short(rows) } }),
  };
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
