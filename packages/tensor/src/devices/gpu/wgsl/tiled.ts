import { arrayType, quadSource, type Reader } from "./elements.ts";
import { Params, repeat } from "./source.ts";

/**
 * How a product is cut. `shared`: a workgroup of lanesN × lanesM invocations multiplies tiles that lie in workgroup memory,
 * `depth` elements of the inner dimension at a time (Volkov & Demmel, 2008). `direct`: nothing is shared but what caches hold;
 * all lanes have the same rows, so that a's elements are the same for all of them. Each invocation has `rows` × `columns` sums.
 */
export interface Tile {
  readonly kind: "shared" | "direct";
  readonly lanesM: number;
  readonly lanesN: number;
  /** Multiples of 4. */
  readonly rows: number;
  readonly columns: number;
  readonly depth: number;
}

export const nameOf = (t: Tile): string => [t.kind, t.lanesM, t.lanesN, t.rows, t.columns, t.depth].join("-");

/** Rows and columns of the result that a workgroup makes. */
export const tileRows = (t: Tile): number => t.lanesM * t.rows;
export const tileColumns = (t: Tile): number => t.lanesN * t.columns;

/** Bytes of workgroup memory. */
export function tileBytes(t: Tile): number {
  return t.kind === "direct" ? 0 : 16 * t.depth * (pitch(tileRows(t)) + pitch(tileColumns(t)));
}

/** Vectors of four in a row of a shared tile; one more than it has, so that neighbouring rows lie in other banks. */
const pitch = (size: number): number => size / 4 + 1;

/** What a product's shader depends on besides its {@link Tile}. */
export interface Product {
  readonly a: Reader;
  readonly b: Reader;
  /** The dimension along which an operand is read in fours. */
  readonly alongA: "m" | "k";
  readonly alongB: "k" | "n";
  /**
   * What lies behind the end of k and is read as zero: `none` where tiles end there, whole `quads`, or single `elements`.
   */
  readonly edge: "none" | "quads" | "elements";
}

export const productName = (p: Product): string =>
  `${p.a.access}-${p.alongA}-${p.b.dtype}-${p.b.access}-${p.alongB}-${p.edge}`;

/** The numbers of a product. Strides count elements; s…1 to s…3 are those of up to three batch dimensions, outermost first. */
export const productParams = new Params({
  ...{ m: "u32", n: "u32", k: "u32", alpha: "f32", size2: "u32", size3: "u32", first: "u32" },
  ...{ accumulate: "u32", addends: "u32", biases: "u32" },
  ...{ a_at: "u32", a_m: "u32", a_k: "u32", a_1: "u32", a_2: "u32", a_3: "u32" },
  ...{ b_at: "u32", b_byte: "u32", b_k: "u32", b_n: "u32", b_1: "u32", b_2: "u32", b_3: "u32" },
  ...{ out_at: "u32", out_m: "u32", out_n: "u32", out_1: "u32", out_2: "u32", out_3: "u32" },
  ...{ addend_at: "u32", addend_m: "u32", addend_n: "u32", bias_at: "u32", bias_n: "u32" },
});

/** Declarations that all products share: buffers, readers, where a batch begins, and how a sum is written. */
export function productHead(product: Product): string {
  const { a, b } = product;
  return `${productParams.source}
@group(0) @binding(1) var<storage, read> a: array<${arrayType(a)}>;
@group(0) @binding(2) var<storage, read> b: array<${arrayType(b)}>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
@group(0) @binding(4) var<storage, read> addend: array<f32>;
@group(0) @binding(5) var<storage, read> bias: array<f32>;
${quadSource("a", a)}${quadSource("b", b)}
var<private> at_a: u32;
var<private> at_b: u32;
var<private> at_out: u32;
fn begin(batch: u32) {
  let three = batch % p.size3;
  let two = (batch / p.size3) % p.size2;
  let one = batch / (p.size3 * p.size2);
  at_a = p.a_at + one * p.a_1 + two * p.a_2 + three * p.a_3;
  at_b = p.b_at + one * p.b_1 + two * p.b_2 + three * p.b_3;
  at_out = p.out_at + one * p.out_1 + two * p.out_2 + three * p.out_3;
}
fn put(m: u32, n: u32, sum: f32) {
  if (m >= p.m || n >= p.n) { return; }
  let at = at_out + m * p.out_m + n * p.out_n;
  var value = p.alpha * sum;
  if (p.accumulate != 0u) { value += out[at]; }
  if (p.addends != 0u) { value += addend[p.addend_at + m * p.addend_m + n * p.addend_n]; }
  if (p.biases != 0u) { value += bias[p.bias_at + n * p.bias_n]; }
  out[at] = value;
}
${leftQuad(product)}${rightQuad(product)}`;
}

/** Four elements along k, zeros behind its end. */
function masked({ edge }: Product, quad: string): string {
  if (edge === "none") return `return ${quad};`;
  if (edge === "quads") return `if (k >= p.k) { return vec4f(0); }\n  return ${quad};`;
  return `return select(vec4f(0), ${quad}, vec4u(k, k + 1u, k + 2u, k + 3u) < vec4u(p.k));`;
}

/** Four elements across k. */
const maskedRow = ({ edge }: Product, quad: string): string =>
  edge === "none" ? `return ${quad};` : `if (k >= p.k) { return vec4f(0); }\n  return ${quad};`;

/**
 * `left(m, k)`: elements [m, k…k+3] of a, or `left_column(m, k)`: [m…m+3, k]. Rows behind the last are the last again, or
 * whatever lies there: their sums are not written.
 */
function leftQuad(product: Product): string {
  const step = product.alongA === "k" && product.a.access === "each" ? "p.a_k" : "1u";
  if (product.alongA === "k") {
    return `fn left(m: u32, k: u32) -> vec4f {
  ${masked(product, `quad_a(at_a + min(m, p.m - 1u) * p.a_m + k * p.a_k, ${step})`)}
}\n`;
  }
  return `fn left_column(m: u32, k: u32) -> vec4f {
  ${maskedRow(product, `quad_a(at_a + m * p.a_m + k * p.a_k, ${product.a.access === "each" ? "p.a_m" : "1u"})`)}
}\n`;
}

/** `right(k, n)`: elements [k…k+3, n] of b, or `right_row(k, n)`: [k, n…n+3]. */
function rightQuad(product: Product): string {
  const step = (stride: string): string => (product.b.access === "each" ? stride : "1u");
  if (product.alongB === "k") {
    return `fn right(k: u32, n: u32) -> vec4f {
  ${masked(product, `quad_b(at_b + k * p.b_k + min(n, p.n - 1u) * p.b_n, ${step("p.b_k")})`)}
}\n`;
  }
  return `fn right_row(k: u32, n: u32) -> vec4f {
  ${maskedRow(product, `quad_b(at_b + k * p.b_k + n * p.b_n, ${step("p.b_n")})`)}
}\n`;
}

/** Four vectors [m…m+3] of a, for k to k+3. */
function leftBlock({ alongA }: Product): string {
  if (alongA === "k") return "transpose(mat4x4f(left(m, k), left(m + 1u, k), left(m + 2u, k), left(m + 3u, k)))";
  return "mat4x4f(left_column(m, k), left_column(m, k + 1u), left_column(m, k + 2u), left_column(m, k + 3u))";
}

/** Four vectors [n…n+3] of b, for k to k+3. */
function rightBlock({ alongB }: Product): string {
  if (alongB === "k") return "transpose(mat4x4f(right(k, n), right(k, n + 1u), right(k, n + 2u), right(k, n + 3u)))";
  return "mat4x4f(right_row(k, n), right_row(k + 1u, n), right_row(k + 2u, n), right_row(k + 3u, n))";
}

/** Multiply-adds of one row of four columns: sums in order of k, whatever the tile, so a tile's choice changes no result. */
const sum = (i: number, j: number): string => `sum${i}_${j}`;

function sums(t: Tile): string {
  return repeat(t.rows, (i) => repeat(t.columns / 4, (j) => `var ${sum(i, j)} = vec4f(0);`));
}

/**
 * Writes the sums, in a loop: drivers take long over many copies of what a write checks. `row` and `column` give the place of
 * the first of four columns, for the i-th row and j-th four of an invocation.
 */
function putAll(t: Tile, row: string, column: string): string {
  const fours = t.columns / 4;
  const all = Array.from({ length: t.rows * fours }, (_, i) => sum(Math.floor(i / fours), i % fours));
  return `var all = array<vec4f, ${all.length}>(${all.join(", ")});
  for (var s = 0u; s < ${all.length}u; s++) {
    let i = s / ${fours}u;
    let j = s % ${fours}u;
    for (var c = 0u; c < 4u; c++) { put(${row}, ${column} + c, all[s][c]); }
  }`;
}

function sharedSource(product: Product, t: Tile): string {
  const [rows, columns] = [tileRows(t), tileColumns(t)];
  const lanes = t.lanesM * t.lanesN;
  const quads = t.depth / 4;
  /** Which block of 4 × 4 invocation `i` brings: neighbours in memory go to neighbouring invocations. */
  const place = (across: number, alongK: boolean): string =>
    alongK
      ? `let kq = i % ${quads}u; let q = i / ${quads}u;`
      : `let q = i % ${across / 4}u; let kq = i / ${across / 4}u;`;
  const bring = (
    tile: string,
    across: number,
    alongK: boolean,
    block: string,
    origin: string,
    name: string,
  ): string => `
    for (var i = lane; i < ${(across / 4) * quads}u; i += ${lanes}u) {
      ${place(across, alongK)}
      let k = k0 + 4u * kq;
      let ${name} = ${origin} + 4u * q;
      let block = ${block};
      ${repeat(4, (c) => `${tile}[(4u * kq + ${c}u) * ${pitch(across)}u + q] = block[${c}];`)}
    }`;
  return `${productHead(product)}
var<workgroup> tile_a: array<vec4f, ${t.depth * pitch(rows)}>;
var<workgroup> tile_b: array<vec4f, ${t.depth * pitch(columns)}>;
@compute @workgroup_size(${t.lanesN}, ${t.lanesM})
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(local_invocation_id) id: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  begin(p.first + group.z);
  let m0 = group.y * ${rows}u;
  let n0 = group.x * ${columns}u;
  ${sums(t)}
  for (var k0 = 0u; k0 < p.k; k0 += ${t.depth}u) {
    ${bring("tile_a", rows, product.alongA === "k", leftBlock(product), "m0", "m")}
    ${bring("tile_b", columns, product.alongB === "k", rightBlock(product), "n0", "n")}
    workgroupBarrier();
    for (var k = 0u; k < ${t.depth}u; k++) {
      ${repeat(t.rows / 4, (i) => `let a${i} = tile_a[k * ${pitch(rows)}u + id.y + ${i * t.lanesM}u];`)}
      ${repeat(t.columns / 4, (j) => `let b${j} = tile_b[k * ${pitch(columns)}u + id.x + ${j * t.lanesN}u];`)}
      ${repeat(t.rows, (i) =>
        repeat(t.columns / 4, (j) => `${sum(i, j)} = fma(vec4f(a${i >> 2}.${"xyzw"[i & 3]}), b${j}, ${sum(i, j)});`),
      )}
    }
    workgroupBarrier();
  }
  ${putAll(t, `m0 + (id.y + (i >> 2u) * ${t.lanesM}u) * 4u + (i & 3u)`, `n0 + (id.x + j * ${t.lanesN}u) * 4u`)}
}`;
}

function directSource(product: Product, t: Tile): string {
  const rows = tileRows(t);
  const left =
    product.alongA === "k"
      ? repeat(t.rows, (i) => `let a${i} = left(m0 + ${i}u, k);`)
      : repeat(t.rows / 4, (i) => `let m${i} = m0 + ${4 * i}u; let c${i} = columns(m${i}, k);`) +
        repeat(t.rows, (i) => `let a${i} = c${i >> 2}[${i & 3}];`);
  return `${productHead(product)}
${product.alongA === "m" ? `fn columns(m: u32, k: u32) -> mat4x4f { return transpose(${leftBlock(product)}); }` : ""}
fn rows_of_right(k: u32, n: u32) -> mat4x4f { return ${rightBlock(product)}; }
@compute @workgroup_size(${t.lanesN})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) id: vec3u) {
  begin(p.first + group.z);
  let m0 = group.y * ${rows}u;
  let n0 = group.x * ${tileColumns(t)}u + id.x * 4u;
  ${sums(t)}
  for (var k = 0u; k < p.k; k += 4u) {
    ${left}
    ${repeat(t.columns / 4, (j) => `let b${j} = rows_of_right(k, n0 + ${4 * j * t.lanesN}u);`)}
    ${repeat(4, (c) =>
      repeat(t.rows, (i) =>
        repeat(t.columns / 4, (j) => `${sum(i, j)} = fma(vec4f(a${i}.${"xyzw"[c]}), b${j}[${c}], ${sum(i, j)});`),
      ),
    )}
  }
  ${putAll(t, "m0 + i", `n0 + 4u * j * ${t.lanesN}u`)}
}`;
}

/** The letters of {@link productHead}'s bindings for the context; addend and bias are others where there are none. */
export const PRODUCT_ACCESS = "rrwrr";

/** The shader of a product of many rows. */
export function tiledSource(product: Product, tile: Tile): string {
  return tile.kind === "shared" ? sharedSource(product, tile) : directSource(product, tile);
}
