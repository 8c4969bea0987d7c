/** Tensors on their way into a file: made when their turn comes, and written in another type than they compute in. */

import { noGrad } from "../autograd.ts";
import { BLOCKS, BYTES, isBlocks, toF16 } from "../dtype.ts";
import { DTypeError, ShapeError } from "../errors.ts";
import { scope } from "../memory.ts";
import { isQuantizable, QUANTIZABLE } from "../quantized/encode.ts";
import { encodeFileBlocks, FILE_BLOCKS, type FileBlock } from "../quantized/ggml.ts";
import { type Shape, show, sizeOf } from "../shape.ts";
import type { Tensor } from "../tensor.ts";

/** Types that weights can be written in: numbers of 32 and 16 bits, and blocks of ggml. */
export const STORED_TYPES = ["f32", "f16", "bf16", ...QUANTIZABLE, ...FILE_BLOCKS] as const;
/** A type that a file of weights can hold. */
export type StoredType = (typeof STORED_TYPES)[number];

/** A tensor that is made when its turn to be written comes: only one of many is in memory at a time. */
export interface TensorSource {
  readonly type: StoredType;
  readonly shape: Shape;
  /** The numbers, in f32, bf16 or blocks. What it returns is disposed of once it is written. */
  read(): Tensor;
}

/** Numbers encoded at a time. */
const PIECE = 1 << 20;

/** Can rows of this length be written so? Blocks need rows of whole blocks. */
export function fitsBlocks(type: StoredType, shape: Shape): boolean {
  return type === "f16" || !isBlocks(type) || (shape.length > 0 && shape.at(-1)! % BLOCKS[type].elements === 0);
}

/** Bytes that a tensor takes in a file. */
export function storedBytes(type: StoredType, shape: Shape): number {
  return sizeOf(shape) * (type === "f16" ? 2 : BYTES[type]);
}

/** @throws ShapeError unless the type can hold the shape */
export function checkSource(op: string, name: string, { type, shape }: TensorSource): void {
  if (!fitsBlocks(type, shape))
    throw new ShapeError(op, `${name} of shape ${show(shape)} has no rows of whole ${type} blocks`);
}

const isFileBlock = (type: StoredType): type is FileBlock => (FILE_BLOCKS as readonly string[]).includes(type);

/**
 * The bytes of a tensor in the type it is written in, in pieces: rounded to nearest, ties to even, or quantised.
 * @throws DTypeError for numbers that no type holds, such as i32
 */
export async function* encodeSource({ type, shape, read }: TensorSource): AsyncGenerator<Uint8Array> {
  const t = read();
  try {
    if (show(t.shape) !== show(shape)) throw new ShapeError("write", `${show(t.shape)} was given for ${show(shape)}`);
    if (t.dtype === type) {
      yield await t.bytes();
      return;
    }
    if (t.dtype === "i32") throw new DTypeError("write", `i32 is not written as ${type}`);
    const columns = shape.at(-1) ?? 1;
    const rows = t.size / Math.max(1, columns);
    const step = Math.max(1, Math.floor(PIECE / Math.max(1, columns)));
    for (let from = 0; from < rows; from += step) {
      const whole = t.rank < 2 || step >= rows;
      yield await encodePiece(t, type, whole ? undefined : [from, Math.min(rows, from + step)]);
      if (whole) return;
    }
  } finally {
    t.dispose();
  }
}

async function encodePiece(t: Tensor, type: StoredType, rows: [number, number] | undefined): Promise<Uint8Array> {
  const onDevice = type === "f32" || type === "bf16" || isQuantizable(type);
  const piece = scope(() =>
    noGrad(() => {
      const part = rows ? t.slice(0, ...rows) : t;
      const numbers = part.dtype === "f32" && !onDevice ? part.clone() : part.to("f32");
      return onDevice && type !== "f32" ? numbers.to(type) : numbers;
    }),
  ).keep();
  try {
    if (onDevice) return await piece.bytes();
    const values = (await piece.data()) as Float32Array;
    return isFileBlock(type) ? encodeFileBlocks(type, values) : halves(values);
  } finally {
    piece.dispose();
  }
}

function halves(values: Float32Array): Uint8Array {
  const out = new Uint16Array(values.length);
  for (let i = 0; i < values.length; i++) out[i] = toF16(values[i]);
  return new Uint8Array(out.buffer);
}
