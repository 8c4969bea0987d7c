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
  const rank = out.shape.length;
  const [m, n] = out.shape.slice(-2);
  const k = a.shape[rank - 1];
  const again = (part: Partial<Call>): void => cut(context, tiling, { ...call, ...part });
  const tooLarge = [a, b, out, options.addend].filter((view) => view !== undefined && !context.fits(view))[0];
  if (rank > 5 || (tooLarge && rank > 2)) {
    for (let i = 0; i < out.shape[0]; i++) again({ a: item(a, i), b: item(b, i), out: item(out, i) });
    return;
  }
  const largest = tooLarge?.strides.indexOf(Math.max(...tooLarge.strides));
  const byRow = tooLarge === b ? false : largest === rank - 2;
  const alongK = (tooLarge === a && largest === rank - 1) || (tooLarge === b && largest === rank - 2);
  if (alongK && tooLarge) {
    const middle = half(k);
    again({ a: part(a, -1, 0, middle), b: part(b, -2, 0, middle) });
    const { alpha, rows } = options;
    again({
      ...{ a: part(a, -1, middle, k), b: part(b, -2, middle, k) },
      options: { alpha, rows, accumulate: true },
    });
  } else if ((tooLarge && byRow) || m > LARGEST_GRID * FEW_ROWS) {
    const middle = half(m);
    for (const [from, to] of [
      [0, middle],
      [middle, m],
    ]) {
      const addend = options.addend && part(options.addend, 0, from, to);
      again({
        a: part(a, -2, from, to),
        out: part(out, -2, from, to),
        options: { ...options, addend, rows: kindOf(m, options) },
      });
    }
  } else if (tooLarge || n > LARGEST_GRID * 4) {
    const middle = half(n);
    for (const [from, to] of [
      [0, middle],
      [middle, n],
    ]) {
      const addend = options.addend && part(options.addend, 1, from, to);
      const bias = options.bias && part(options.bias, 0, from, to);
      again({ b: part(b, -1, from, to), out: part(out, -1, from, to), options: { ...options, addend, bias } });
    }
  } else if (kindOf(m, options) === "few") {
    for (let row = 0; row < m; row += FEW_ROWS) {
      const to = Math.min(m, row + FEW_ROWS);
      const addend = options.addend && part(options.addend, 0, row, to);
      few(context, tiling, {
        ...call,
        a: part(a, -2, row, to),
        out: part(out, -2, row, to),
        options: { ...options, addend },
      });
    }
  } else many(context, tiling, call);
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
  const strip = product.alongB === "k" ? tiling.columns : tiling.rows;
  const most = context.limits.maxComputeWorkgroupStorageSize;
  const fitting = stripBytes(product, strip, m) <= most ? strip : { ...strip, columns: 1, invocations: strip.lanes };
  const key = `few-${m}-${stripName(fitting)}-${productName(product)}`;
  const groups = [Math.ceil(n / stripColumns(product, fitting)), 1] as const;
  launch(context, call, { ...described, product }, key, () => stripSource(product, fitting, m), groups);
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
