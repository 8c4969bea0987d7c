import { BYTES, type DType, fromBf16, type TypedArray, toBf16, typedArray } from "../../dtype.ts";
import { Storage } from "../../memory.ts";
import { encodeBlocks } from "../../quantized/encode.ts";
import { contiguousStrides, type Shape, sizeOf } from "../../shape.ts";
import type { Device, View } from "../device.ts";
import { eachRow } from "../reference/views.ts";
import { reference } from "../registry.ts";

/** How exact a device's sums are, where it may choose. */
export interface Bounds {
  /** Error of a matrix product, as a share of Σ|a·b|. */
  readonly product: number;
}

/** What a test runs on. `again` makes another device of the same kind with so many threads. */
export interface Bench {
  readonly device: Device;
  readonly bounds: Bounds;
  again(threads: number): Promise<Device>;
}

/** One test of the suite. */
export interface DeviceTest {
  readonly name: string;
  run(bench: Bench): Promise<void>;
}

/** Numbers in [0, 1) from a seed (mulberry32, T. Ettinger): the same in every run. */
export function numbers(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** How a view lies in its storage. All but `dense` leave elements around it that nobody may touch. */
export type Layout =
  | "dense"
  /** Begins at an odd element. */
  | "offset"
  /** Rows with a gap behind each. */
  | "padded"
  /** Every second element. */
  | "stepped"
  /** Dimensions in memory from last to first. */
  | "transposed"
  /** The first dimension, or the last, or all are one element repeated; for inputs. */
  | "repeatedFirst"
  | "repeatedLast"
  | "repeated";

export const INPUT_LAYOUTS: readonly Layout[] = [
  "dense",
  "offset",
  "padded",
  "stepped",
  "transposed",
  "repeatedFirst",
  "repeatedLast",
  "repeated",
];
export const OUTPUT_LAYOUTS: readonly Layout[] = ["dense", "offset", "padded", "stepped", "transposed"];

const SLACK = 7;

function arrange(shape: Shape, layout: Layout): { offset: number; strides: number[]; length: number } {
  let strides = contiguousStrides(shape);
  let offset = layout === "dense" ? 0 : 3;
  if (layout === "padded") strides = contiguousStrides(shape.map((n, d) => (d === shape.length - 1 ? n + 3 : n)));
  if (layout === "stepped") strides = strides.map((s) => 2 * s);
  if (layout === "transposed") strides = contiguousStrides([...shape].reverse()).reverse();
  if (layout === "repeatedFirst") strides = strides.map((s, d) => (d === 0 ? 0 : s));
  if (layout === "repeatedLast") strides = strides.map((s, d) => (d === shape.length - 1 ? 0 : s));
  if (layout === "repeated") strides = strides.map(() => 0);
  const reach = sizeOf(shape) === 0 ? -1 : shape.reduce((n, size, d) => n + (size - 1) * strides[d], 0);
  if (layout === "dense") offset = 0;
  return { offset, strides, length: offset + reach + 1 + (layout === "dense" ? 0 : SLACK) };
}

/** Values by element number, or drawn one after another. */
export type Values = ArrayLike<number> | ((i: number) => number);

/** A tensor that a test hands to a primitive. */
export interface Operand {
  readonly dtype: DType;
  readonly shape: Shape;
  readonly layout: Layout;
  readonly strides: readonly number[];
  readonly offset: number;
  /** The storage's content before the call. */
  readonly content: TypedArray;
}

/** A host array's element as a number. */
function valueAt(content: TypedArray, i: number): number {
  return content instanceof Uint16Array ? fromBf16(content[i]) : content[i];
}

/** Element numbers of a view in row-major order. */
function positions({ shape, strides, offset }: Pick<Operand, "shape" | "strides" | "offset">): number[] {
  if (shape.length === 0) return [offset];
  const found: number[] = [];
  const view = { shape, strides, offset } as unknown as View;
  eachRow(shape, [view], ([at]) => {
    for (let i = 0; i < shape.at(-1)!; i++) found.push(at + i * strides.at(-1)!);
  });
  return found;
}

/** A tensor of these values; the rest of its storage holds noise. */
export function operand(dtype: DType, shape: Shape, values: Values, layout: Layout = "dense"): Operand {
  const { offset, strides, length } = arrange(shape, layout);
  const noise = numbers(length + 17);
  const round = (x: number): number => (dtype === "bf16" ? toBf16(x) : x);
  const content = typedArray(dtype, new ArrayBuffer(length * BYTES[dtype]), 0, length);
  for (let i = 0; i < length; i++) content[i] = round(Math.floor(200 * noise()) - 100);
  positions({ shape, strides, offset }).forEach((at, i) => {
    content[at] = round(typeof values === "function" ? values(i) : values[i]);
  });
  return { dtype, shape, layout, strides, offset, content };
}

/** A dense tensor of `q8_0` blocks, these values rounded to them. */
export function blocks(shape: Shape, values: Values): Operand {
  const numbers = operand("f32", shape, values);
  const content = new Uint8Array(numbers.content.length * BYTES.q8_0);
  encodeBlocks("q8_0", numbers.content as Float32Array, content);
  return { ...numbers, dtype: "q8_0", content };
}

/** The values of an operand in row-major order, as they are after rounding to its type. */
export function valuesOf(o: Operand): number[] {
  return positions(o).map((at) => valueAt(o.content, at));
}

function place(device: Device, o: Operand): View {
  const storage = Storage.allocate(device, o.content.byteLength);
  device.write(storage, 0, new Uint8Array(o.content.buffer));
  return { storage, dtype: o.dtype, offset: o.offset, shape: o.shape, strides: o.strides };
}

/** |got − want| ≤ rel·|want| + abs; what is not finite must be the same. `abs` may differ by element. */
export interface Tolerance {
  readonly rel?: number;
  readonly abs?: number | ArrayLike<number>;
}

/** Every element as the reference has it. */
export const EXACT: Tolerance = {};

/** A result: the operand that it overwrites, and how near to the reference's it must be. */
export interface Result {
  readonly into: Operand;
  readonly tolerance: Tolerance;
}

/** A result of this shape in memory that holds noise before. */
export function result(dtype: DType, shape: Shape, tolerance: Tolerance = EXACT, layout: Layout = "dense"): Result {
  const noise = numbers(sizeOf(shape) + 5);
  return { into: operand(dtype, shape, () => 10 * noise() - 5, layout), tolerance };
}

type Views<I, O> = { readonly [K in keyof I | keyof O]: View };

/** Runs a primitive on one device; the results' whole storages afterwards. */
async function runOn<I extends Record<string, Operand>, O extends Record<string, Result>>(
  device: Device,
  inputs: I,
  outputs: O,
  call: (device: Device, views: Views<I, O>) => void,
): Promise<Record<string, TypedArray>> {
  const views: Record<string, View> = {};
  for (const [name, o] of Object.entries(inputs)) views[name] = place(device, o);
  for (const [name, { into }] of Object.entries(outputs)) views[name] = place(device, into);
  call(device, views as Views<I, O>);
  for (const name of Object.keys(inputs)) views[name].storage.release();
  const after: Record<string, TypedArray> = {};
  for (const [name, { into }] of Object.entries(outputs)) {
    const { storage } = views[name];
    const bytes = await device.read(storage, 0, storage.byteLength);
    after[name] = typedArray(into.dtype, bytes.slice().buffer, 0, into.content.length);
    storage.release();
  }
  return after;
}

/** Runs a primitive on the device; the results' values in row-major order. */
export async function values<I extends Record<string, Operand>, O extends Record<string, Result>>(
  device: Device,
  inputs: I,
  outputs: O,
  call: (device: Device, views: Views<I, O>) => void,
): Promise<{ [K in keyof O]: number[] }> {
  const after = await runOn(device, inputs, outputs, call);
  const entries = Object.entries(outputs).map(([name, { into }]) => [
    name,
    positions(into).map((at) => valueAt(after[name], at)),
  ]);
  return Object.fromEntries(entries);
}

/**
 * Runs a primitive on the device and on the reference, with the same memory, and compares the results. What lies in
 * their storages around them must not change.
 * @throws Error naming the first element that differs
 */
export async function agree<I extends Record<string, Operand>, O extends Record<string, Result>>(
  device: Device,
  inputs: I,
  outputs: O,
  call: (device: Device, views: Views<I, O>) => void,
): Promise<void> {
  const got = await runOn(device, inputs, outputs, call);
  const want = await runOn(reference, inputs, outputs, call);
  const all = Object.entries({ ...inputs, ...mapValues(outputs, (o) => o.into) });
  const about = all.map(([name, o]) => `${name} ${o.dtype} [${o.shape}] ${o.layout}`).join(", ");
  for (const [name, { into, tolerance }] of Object.entries(outputs)) {
    const inside = positions(into);
    inside.forEach((at, i) => {
      const { rel = 0, abs = 0 } = tolerance;
      const [g, w] = [valueAt(got[name], at), valueAt(want[name], at)];
      const allowed = rel * Math.abs(w) + (typeof abs === "number" ? abs : abs[i]);
      const near = Number.isFinite(w) ? Math.abs(g - w) <= allowed : Object.is(g, w);
      if (!near) throw new Error(`${name}[${i}] is ${g}, not ${w} (allowed ${allowed}); ${about}`);
    });
    const mine = new Set(inside);
    into.content.forEach((before, at) => {
      if (!mine.has(at) && got[name][at] !== before) {
        throw new Error(`${name}: element ${at} of its storage lies outside of the result and was changed; ${about}`);
      }
    });
  }
}

function mapValues<A, B>(record: Record<string, A>, f: (a: A) => B): Record<string, B> {
  return Object.fromEntries(Object.entries(record).map(([key, value]) => [key, f(value)]));
}
