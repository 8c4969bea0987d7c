import { isBlocks } from "../../../dtype.ts";
import { FEW_ROWS, type MatmulOptions, type View } from "../../device.ts";
import type { GpuContext } from "../context.ts";
import { type Reader, readerOf } from "./elements.ts";
import { type Strip, stripBytes, stripColumns, stripName, stripSource } from "./gemv.ts";
import {
  nameOf,
  PRODUCT_ACCESS,
  type Product,
  productName,
  productParams,
  type Tile,
  tileColumns,
  tiledSource,
  tileRows,
} from "./tiled.ts";
import { apart, type Place, place } from "./views.ts";

/** How products are cut on this device: see `tuning.ts`. */
export interface Tiling {
  /** For products that fill the device with such tiles, and for smaller ones. */
  readonly large: Tile;
  readonly small: Tile;
  /** For products of few rows: b's columns one after another in memory, or its rows. */
  readonly columns: Strip;
  readonly rows: Strip;
  /** Attention's tiles have so many times eight rows and keys, where workgroup memory holds that. */
  readonly attentionSide: 1 | 2 | 4;
}

/** A product that is being cut; `a`, `b` and `out` have the same batch dimensions. */
interface Call {
  readonly a: View;
  readonly b: View;
  readonly out: View;
  readonly options: MatmulOptions;
}

/** Workgroups in one dimension that every device takes. */
const LARGEST_GRID = 65535;
/** Cuts of k and n lie on multiples of this: whole blocks, and what vectors want. */
const CUT = 256;
/** A product of fewer large tiles takes small ones, so that no part of the device is idle. */
const FEW_TILES = 32;

/** `Device.matmul`. */
export function matmul(
  context: GpuContext,
  tiling: Tiling,
  a: View,
  b: View,
  out: View,
  options: MatmulOptions = {},
): void {
  if (out.shape.includes(0)) return;
  apart(context, [out], [a, b, options.bias, options.addend] as const, ([a, b, bias, addend]) => {
    cut(context, tiling, { a, b, out, options: { ...options, bias, addend } });
  });
}

/** Halves a product until one dispatch can make each part. */
function cut(context: GpuContext, tiling: Tiling, call: Call): void {
  const { a, b, out, options } = call;
  const m = out.shape.at(-2)!;
  const dimension = tooLarge(context, call);
  if (dimension === "batch") {
    for (let i = 0; i < out.shape[0]; i++) {
      cut(context, tiling, { ...call, a: item(a, i), b: item(b, i), out: item(out, i) });
    }
  } else if (dimension) {
    for (const part of halves(call, dimension)) cut(context, tiling, part);
  } else if (kindOf(m, options) === "few") {
    for (let row = 0; row < m; row += FEW_ROWS) few(context, tiling, ofRows(call, row, Math.min(m, row + FEW_ROWS)));
  } else if (isSkinny(call)) cut(context, tiling, turned(call));
  else many(context, tiling, call);
}

type Dimension = "m" | "k" | "n";

/** Along which dimension a product must be cut, if it must: that in which an operand for no binding reaches furthest. */
function tooLarge(context: GpuContext, { a, b, out, options }: Call): Dimension | "batch" | undefined {
  const operands: [View, Dimension, Dimension][] = [
    [a, "m", "k"],
    [b, "k", "n"],
    [out, "m", "n"],
  ];
  if (options.addend) operands.push([options.addend, "m", "n"]);
  const found = operands.find(([view]) => !context.fits(view));
  if (out.shape.length > 5 || (found && out.shape.length > 2)) return "batch";
  if (found) {
    const [{ shape, strides }, outer, inner] = found;
    return (shape[0] - 1) * strides[0] >= (shape[1] - 1) * strides[1] ? outer : inner;
  }
  const [m, n] = out.shape.slice(-2);
  if (m > LARGEST_GRID * 4) return "m";
  return n > LARGEST_GRID * 4 ? "n" : undefined;
}

/** Rows of a product; by the means of the whole, however few they are. */
function ofRows(call: Call, from: number, to: number): Call {
  const { a, out, options } = call;
  const addend = options.addend && part(options.addend, 0, from, to);
  const rows = kindOf(out.shape.at(-2)!, options);
  return { ...call, a: part(a, -2, from, to), out: part(out, -2, from, to), options: { ...options, addend, rows } };
}

function halves(call: Call, dimension: Dimension): [Call, Call] {
  const { a, b, out, options } = call;
  if (dimension === "m") {
    const [m] = out.shape.slice(-2);
    return [ofRows(call, 0, half(m)), ofRows(call, half(m), m)];
  }
  if (dimension === "k") {
    const k = a.shape.at(-1)!;
    const inner = (from: number, to: number) => ({ ...call, a: part(a, -1, from, to), b: part(b, -2, from, to) });
    const { alpha, rows } = options;
    return [inner(0, half(k)), { ...inner(half(k), k), options: { alpha, rows, accumulate: true } }];
  }
  const n = out.shape.at(-1)!;
  const columns = (from: number, to: number): Call => {
    const addend = options.addend && part(options.addend, 1, from, to);
    const bias = options.bias && part(options.bias, 0, from, to);
    return { ...call, b: part(b, -1, from, to), out: part(out, -1, from, to), options: { ...options, addend, bias } };
  };
  return [columns(0, half(n)), columns(half(n), n)];
}

/** So few columns leave most of a tile idle: LoRA's products with A and B. */
const FEW_COLUMNS = 2 * FEW_ROWS;

/** Has it few columns, whatever its rows are, and can the other operand be the one of few rows? */
const isSkinny = ({ b, out, options }: Call): boolean =>
  out.shape.at(-1)! <= FEW_COLUMNS && b.dtype === "f32" && !(options.bias && options.addend);

/** outᵀ = bᵀ·aᵀ: few columns become few rows. */
function turned({ a, b, out, options: { bias, addend, ...options } }: Call): Call {
  const across = bias && { ...bias, shape: [out.shape.at(-1)!, out.shape.at(-2)!], strides: [bias.strides[0], 0] };
  return {
    ...{ a: transposed(b), b: transposed(a), out: transposed(out) },
    options: { ...options, addend: addend ? transposed(addend) : across, rows: "few" },
  };
}

/** The last two dimensions exchanged. */
function transposed(view: View): View {
  const swap = (list: readonly number[]): number[] => [...list.slice(0, -2), list.at(-1)!, list.at(-2)!];
  return { ...view, shape: swap(view.shape), strides: swap(view.strides) };
}

const kindOf = (m: number, { rows }: MatmulOptions) => rows ?? (m <= FEW_ROWS ? "few" : "many");

/** About the half, at a multiple of {@link CUT} where there is one. */
const half = (n: number): number => (n > CUT ? Math.ceil(n / 2 / CUT) * CUT : Math.ceil(n / 2));

/** Elements `from` to `to` of a dimension, negative ones counted from the last. */
function part(view: View, dimension: number, from: number, to: number): View {
  const d = dimension < 0 ? view.shape.length + dimension : dimension;
  return { ...view, offset: view.offset + from * view.strides[d], shape: view.shape.with(d, to - from) };
}

/** One of a view's first dimension. */
const item = (view: View, i: number): View => ({
  ...view,
  ...{ offset: view.offset + i * view.strides[0], shape: view.shape.slice(1), strides: view.strides.slice(1) },
});

/** Along which of its last two dimensions an operand is read: the one in which it lies closest. */
function alongLast(view: View): boolean {
  if (isBlocks(view.dtype)) return view.strides.at(-1) === 1;
  const [outer, inner] = [-2, -1].map((d) => (view.shape.at(d) === 1 ? Number.POSITIVE_INFINITY : view.strides.at(d)!));
  return inner <= outer;
}

/** What a shader must know of the operands, and where they are bound. */
function describe(context: GpuContext, { a, b, out }: Call, few: boolean) {
  const rank = out.shape.length;
  const [placeA, placeB, placeOut] = [a, b, out].map((view) => place(context, view, "matmul"));
  const alongB = alongLast(b) ? ("n" as const) : ("k" as const);
  const alongA = few || alongLast(a) ? ("k" as const) : ("m" as const);
  const single: Reader = { dtype: "f32", access: "each" };
  const product = {
    a: few && alongB === "n" ? single : readerOf(a, alongA === "k" ? rank - 1 : rank - 2, placeA.first),
    b: readerOf(b, alongB === "n" ? rank - 1 : rank - 2, placeB.first),
    ...{ alongA, alongB },
  };
  return { product, placeA, placeB, placeOut };
}

function edgeOf(k: number, depth: number): Product["edge"] {
  if (k % depth === 0) return "none";
  return k % 4 === 0 ? "quads" : "elements";
}

function few(context: GpuContext, tiling: Tiling, call: Call): void {
  const described = describe(context, call, true);
  const [m, n] = call.out.shape.slice(-2);
  const product: Product = { ...described.product, edge: edgeOf(call.a.shape.at(-1)!, 4) };
  // A power of two: shaders of fewer rows than eight in four kinds are enough.
  const rows = 2 ** Math.ceil(Math.log2(m));
  const strip = product.alongB === "k" ? tiling.columns : tiling.rows;
  const most = context.limits.maxComputeWorkgroupStorageSize;
  const fitting = stripBytes(product, strip, rows) <= most ? strip : { ...strip, columns: 1, invocations: strip.lanes };
  const key = `few-${rows}-${stripName(fitting)}-${productName(product)}`;
  const groups = [Math.ceil(n / stripColumns(product, fitting)), 1] as const;
  launch(
    context,
    call,
    { ...described, product },
    key,
    () => stripSource(product, fitting, rows, context.subgroup),
    groups,
  );
}

function many(context: GpuContext, tiling: Tiling, call: Call): void {
  const described = describe(context, call, false);
  const [m, n] = call.out.shape.slice(-2);
  const grid = (tile: Tile) => [Math.ceil(n / tileColumns(tile)), Math.ceil(m / tileRows(tile))] as const;
  const [x, y] = grid(tiling.large);
  const batch = call.out.shape.slice(0, -2).reduce((count, size) => count * size, 1);
  const tile = x * y * batch < FEW_TILES ? tiling.small : tiling.large;
  const product: Product = {
    ...described.product,
    edge: edgeOf(call.a.shape.at(-1)!, tile.kind === "direct" ? 4 : tile.depth),
  };
  const key = `many-${nameOf(tile)}-${productName(product)}`;
  launch(context, call, { ...described, product }, key, () => tiledSource(product, tile), grid(tile));
}

function launch(
  context: GpuContext,
  { a, b, out, options }: Call,
  described: { product: Product; placeA: Place; placeB: Place; placeOut: Place },
  key: string,
  source: () => string,
  [x, y]: readonly [number, number],
): void {
  const { placeA, placeB, placeOut } = described;
  const { addend, bias } = options;
  const kernel = context.kernel(`matmul-${key}`, () => ({ code: source(), access: PRODUCT_ACCESS }));
  const [placeAddend, placeBias] = [addend, bias].map((view) => view && place(context, view, "matmul"));
  const batch = out.shape.slice(0, -2);
  const sizes = [...[1, 1, 1].slice(batch.length), ...batch];
  /** Strides of three batch dimensions, outermost first, and of the matrix. */
  const strides = (view: View): number[] => [...[0, 0, 0].slice(batch.length), ...view.strides];
  const [[a1, a2, a3, am, ak], [b1, b2, b3, bk, bn], [o1, o2, o3, om, on]] = [a, b, out].map(strides);
  const values = {
    ...{ m: out.shape.at(-2)!, n: out.shape.at(-1)!, k: a.shape.at(-1)!, alpha: options.alpha ?? 1 },
    ...{ size2: sizes[1], size3: sizes[2] },
    ...{ accumulate: options.accumulate ? 1 : 0, addends: addend ? 1 : 0, biases: bias ? 1 : 0 },
    ...{ a_at: placeA.first, a_m: am, a_k: ak, a_1: a1, a_2: a2, a_3: a3 },
    ...{ b_at: placeB.first, b_byte: placeB.byte, b_k: bk, b_n: bn, b_1: b1, b_2: b2, b_3: b3 },
    ...{ out_at: placeOut.first, out_m: om, out_n: on, out_1: o1, out_2: o2, out_3: o3 },
    ...{ addend_at: placeAddend?.first ?? 0, addend_m: addend?.strides[0] ?? 0, addend_n: addend?.strides[1] ?? 0 },
    ...{ bias_at: placeBias?.first ?? 0, bias_n: bias?.strides[0] ?? 0 },
  };
  const bindings = [placeA, placeB, placeOut, placeAddend ?? placeA, placeBias ?? placeA].map((at) => at.binding);
  const batches = sizes[0] * sizes[1] * sizes[2];
  for (let first = 0; first < batches; first += LARGEST_GRID) {
    const count = Math.min(LARGEST_GRID, batches - first);
    context.run(kernel, productParams.words({ ...values, first }), bindings, [x, y, count]);
  }
}
