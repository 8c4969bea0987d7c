import { repeat } from "./source.ts";
import { type Product, productHead } from "./tiled.ts";

/**
 * How a product of few rows is cut: each matrix element is read once, by invocations that are neighbours in memory. Of b's
 * columns that run along k, `lanes` invocations share one, four elements at a time, and each has `columns` of them at once; b's
 * rows are shared by `lanes` invocations of four columns each, and the others of the workgroup take every so many-th row.
 */
export interface Strip {
  readonly invocations: number;
  readonly lanes: number;
  readonly columns: number;
}

export const stripName = (s: Strip): string => `${s.invocations}-${s.lanes}-${s.columns}`;

/** Columns of the result that a workgroup makes. */
export const stripColumns = ({ alongB }: Product, s: Strip): number =>
  alongB === "k" ? (s.invocations / s.lanes) * s.columns : 4 * s.lanes;

/** Bytes of workgroup memory. */
export const stripBytes = ({ alongB }: Pick<Product, "alongB">, s: Strip, rows: number): number =>
  4 * s.invocations * rows * (alongB === "k" ? s.columns : 4);

const HEAD = `fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  begin(p.first + group.z);`;

/** `dot` whose sum has a stated order. */
const DOT =
  "fn join(x: vec4f, y: vec4f, sum: f32) -> f32 { return fma(x.w, y.w, fma(x.z, y.z, fma(x.y, y.y, fma(x.x, y.x, sum)))); }";

/** Adds up what `width` neighbouring sums in `part` hold, all `count` kinds of them, into the first. */
function fold(width: number, stride: number, count: number, invocations: number, index: string): string {
  return `for (var half = ${width >> 1}u; half > 0u; half >>= 1u) {
    workgroupBarrier();
    if (${index} < half) {
      for (var i = lane; i < ${count * invocations}u; i += ${invocations}u) { part[i] += part[i + half * ${stride}u]; }
    }
  }`;
}

function alongK(product: Product, s: Strip, rows: number): string {
  const sums = rows * s.columns;
  const columns = stripColumns(product, s);
  return `${productHead(product)}
${DOT}
var<workgroup> part: array<f32, ${sums * s.invocations}>;
@compute @workgroup_size(${s.invocations})
${HEAD}
  let share = lane % ${s.lanes}u;
  let n0 = group.x * ${columns}u + (lane / ${s.lanes}u) * ${s.columns}u;
  ${repeat(rows, (m) => repeat(s.columns, (c) => `var sum${m}_${c} = 0.0;`))}
  for (var k = 4u * share; k < p.k; k += ${4 * s.lanes}u) {
    ${repeat(s.columns, (c) => `let b${c} = right(k, n0 + ${c}u);`)}
    ${repeat(rows, (m) => `let a${m} = left(${m}u, k);\n${repeat(s.columns, (c) => `sum${m}_${c} = join(a${m}, b${c}, sum${m}_${c});`)}`)}
  }
  ${repeat(rows, (m) => repeat(s.columns, (c) => `part[${(m * s.columns + c) * s.invocations}u + lane] = sum${m}_${c};`))}
  ${fold(s.lanes, 1, sums, s.invocations, "share")}
  workgroupBarrier();
  if (share == 0u) {
    for (var i = 0u; i < ${sums}u; i++) {
      put(i / ${s.columns}u, n0 + i % ${s.columns}u, part[i * ${s.invocations}u + lane]);
    }
  }
}`;
}

function alongN(product: Product, s: Strip, rows: number): string {
  const deep = s.invocations / s.lanes;
  return `${productHead(product)}
var<workgroup> part: array<vec4f, ${rows * s.invocations}>;
@compute @workgroup_size(${s.invocations})
${HEAD}
  let row = lane / ${s.lanes}u;
  let n = group.x * ${4 * s.lanes}u + 4u * (lane % ${s.lanes}u);
  ${repeat(rows, (m) => `var sum${m} = vec4f(0);`)}
  for (var k = row; k < p.k; k += ${deep}u) {
    let b = right_row(k, n);
    ${repeat(rows, (m) => `sum${m} = fma(vec4f(one_a(at_a + ${m}u * p.a_m + k * p.a_k)), b, sum${m});`)}
  }
  ${repeat(rows, (m) => `part[${m * s.invocations}u + lane] = sum${m};`)}
  ${fold(deep, s.lanes, rows, s.invocations, "row")}
  workgroupBarrier();
  if (row == 0u) {
    for (var m = 0u; m < ${rows}u; m++) {
      for (var c = 0u; c < 4u; c++) { put(m, n + c, part[m * ${s.invocations}u + lane][c]); }
    }
  }
}`;
}

/** The shader of a product of `rows` rows, at most eight; a row's sums are made in one order, whatever their number. */
export function stripSource(product: Product, strip: Strip, rows: number): string {
  return product.alongB === "k" ? alongK(product, strip, rows) : alongN(product, strip, rows);
}
