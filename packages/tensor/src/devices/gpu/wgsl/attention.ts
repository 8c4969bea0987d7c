import { type AttentionOptions, FEW_ROWS, type Segment, type View } from "../../device.ts";
import type { GpuContext } from "../context.ts";
import type { Tiling } from "./matmul.ts";
import { Params, repeat } from "./source.ts";
import { apart, temporary } from "./views.ts";

/**
 * Attention in tiles (FlashAttention, Dao et al. 2022): a workgroup of 8 × 8 invocations keeps a tile of query rows in workgroup
 * memory and streams the keys past it. The heads that share keys are rows of one tile: row r of a segment is query r/group of
 * head r%group, so decoding, with one query a sequence, fills tiles too. Keys are taken in blocks counted from a segment's
 * first, so that a row's result depends on its sequence alone.
 */
const SIDE = 8;
const LANES = SIDE * SIDE;
/** Below every score, and still a number: its exponential is 0. */
const LOWEST = "-3.0e38";

/** Tiles: `rows` × 8 query rows, `keys` × 8 keys, heads of `size` elements. */
interface Shape {
  readonly rows: number;
  readonly keys: number;
  readonly size: number;
  /** Keys are found through a table of rows. */
  readonly paged?: boolean;
}

/** Vectors of four in a head, the last filled with zeros, as many as 8 invocations share evenly. */
const quadsOf = (size: number): number => Math.ceil(size / (4 * SIDE)) * SIDE;
/** Vectors in a row of a tile: one more, so that neighbouring rows lie in other banks. */
const pitchOf = (size: number): number => quadsOf(size) + 1;
const headBytes = (size: number): number => 16 * pitchOf(size);

/** The widest square tiles, counted in eights, that workgroup memory holds, `widest` at most. */
function sideFor(context: GpuContext, widest: number, bytes: (side: number) => number): number {
  const most = context.limits.maxComputeWorkgroupStorageSize;
  return [4, 2, 1].find((side) => side <= widest && bytes(side) <= most) ?? 1;
}

const params = new Params({
  ...{ queries: "u32", group: "u32", scale: "f32", keys: "u32", lse_wanted: "u32", nothing: "f32" },
  ...{ q_at: "u32", q_0: "u32", q_1: "u32", k_at: "u32", k_0: "u32", k_1: "u32", v_at: "u32", v_0: "u32", v_1: "u32" },
  ...{ out_at: "u32", out_0: "u32", out_1: "u32", lse_at: "u32", lse_0: "u32", lse_1: "u32" },
  ...{ grad_at: "u32", grad_0: "u32", grad_1: "u32", dq_at: "u32", dq_0: "u32", dq_1: "u32" },
  ...{ dk_at: "u32", dk_0: "u32", dk_1: "u32", dv_at: "u32", dv_0: "u32", dv_1: "u32", rows_at: "u32", rows_0: "u32" },
});
type Values = Parameters<typeof params.words>[0];

/** Where the views lie that a kernel has; 0 for others. */
function valuesOf(views: { readonly [name: string]: { view: View; first: number } | undefined }): Values {
  const values = params.zeros();
  for (const [name, bound] of Object.entries(views)) {
    if (!bound) continue;
    const [outer, inner = 0] = bound.view.strides;
    Object.assign(values, { [`${name}_at`]: bound.first, [`${name}_0`]: outer, [`${name}_1`]: inner });
  }
  return values;
}

/** Buffers of f32, named, from binding 1 on; those in `written` may be written, `tables` are words. */
function buffers(names: readonly string[], written: readonly string[], tables: readonly string[]): string {
  return names
    .map((name, i) => {
      const access = written.includes(name) ? "read_write" : "read";
      const type = tables.includes(name) ? "u32" : "f32";
      return `@group(0) @binding(${i + 1}) var<storage, ${access}> ${name}: array<${type}>;\n`;
    })
    .join("");
}

/** `four_NAME(at, d)`: elements d to d+3 of the head that begins at `at`, zeros behind its end. */
function four(name: string, size: number): string {
  const last = (i: number): string =>
    size % 4 === 0 ? `${name}[at + d + ${i}u]` : `select(0.0, ${name}[at + d + ${i}u], d + ${i}u < ${size}u)`;
  return `fn four_${name}(at: u32, d: u32) -> vec4f {
  if (d >= ${size}u) { return vec4f(0); }
  return vec4f(${name}[at + d], ${[1, 2, 3].map(last).join(", ")});
}\n`;
}

/** Writes elements d to d+3 of a head. */
function putFour(name: string, size: number): string {
  return `fn put_${name}(at: u32, d: u32, value: vec4f) {
  for (var i = 0u; i < 4u; i++) { if (d + i < ${size}u) { ${name}[at + d + i] = value[i]; } }
}\n`;
}

/** Fills `tile` with `count` rows of heads; `at` names row r's place, `valid` whether it is there. */
function bring(tile: string, count: number, size: number, valid: string, at: string, name: string): string {
  const quads = quadsOf(size);
  return `for (var i = lane; i < ${count * quads}u; i += ${LANES}u) {
      let r = i / ${quads}u;
      let d = 4u * (i % ${quads}u);
      var value = vec4f(0);
      if (${valid}) { value = four_${name}(${at}, d); }
      ${tile}[r * ${pitchOf(size)}u + d / 4u] = value;
    }`;
}

const HEAD = `@compute @workgroup_size(${SIDE}, ${SIDE})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) id: vec3u, @builtin(local_invocation_index) lane: u32) {`;

/** Numbers of an item. */
const ITEM_WORDS = 7;
/** What an item of the table `items` says: a segment, and its first row in this tile. */
const ITEM = `
  let item = ${ITEM_WORDS}u * group.x;
  let query0 = items[item];
  let queries = items[item + 1u];
  let key0 = items[item + 2u];
  let keys = items[item + 3u];
  // Key j is seen by query i where j ≤ i + seen.
  let seen = bitcast<i32>(items[item + 4u]);
  let target0 = items[item + 5u];
  let r0 = items[item + 6u];
  let rows = queries * p.group;`;

/** The place of row r's query and head in the view `name`. */
const rowAt = (name: string, first = "query0"): string =>
  `p.${name}_at + (${first} + (r0 + r) / p.group) * p.${name}_0 + (group.y * p.group + (r0 + r) % p.group) * p.${name}_1`;

/** A [rows × keys] tile of dot products of two tiles' heads, `into[i][j]` for rows id.y + 8·i and keys id.x + 8·j. */
function products(into: string, left: string, right: string, { rows, keys, size }: Shape): string {
  const pitch = pitchOf(size);
  const cell = (i: number, j: number): string => `${into}${i}_${j}`;
  return `${repeat(rows, (i) => repeat(keys, (j) => `var ${cell(i, j)} = vec4f(0);`))}
    for (var d = 0u; d < ${quadsOf(size)}u; d++) {
      ${repeat(rows, (i) => `let l${i} = ${left}[(id.y + ${SIDE * i}u) * ${pitch}u + d];`)}
      ${repeat(keys, (j) => `let r${j} = ${right}[(id.x + ${SIDE * j}u) * ${pitch}u + d];\n${repeat(rows, (i) => `${cell(i, j)} = fma(l${i}, r${j}, ${cell(i, j)});`)}`)}
    }`;
}
const total = (cell: string): string => `(${cell}.x + ${cell}.y) + (${cell}.z + ${cell}.w)`;

/** `sum{i}_{t}` += Σ over `count` of factor(i, c) · the head of row c in `tile`, for columns id.x + 8·t. */
function weighted(
  sum: string,
  rows: number,
  count: number,
  size: number,
  factor: (i: number) => string,
  tile: string,
): string {
  const columns = quadsOf(size) / SIDE;
  return `for (var c = 0u; c < ${count}u; c++) {
      ${repeat(rows, (i) => `let f${i} = vec4f(${factor(i)});`)}
      ${repeat(columns, (t) => `let x${t} = ${tile}[c * ${pitchOf(size)}u + id.x + ${SIDE * t}u];\n${repeat(rows, (i) => `${sum}${i}_${t} = fma(f${i}, x${t}, ${sum}${i}_${t});`)}`)}
    }`;
}

const declare = (sum: string, rows: number, size: number): string =>
  repeat(rows, (i) => repeat(quadsOf(size) / SIDE, (t) => `var ${sum}${i}_${t} = vec4f(0);`));

const keyRow = ({ paged }: Shape, j: string): string =>
  paged ? `key_rows[p.rows_at + (key0 + ${j}) * p.rows_0]` : `(key0 + ${j})`;
const keyAt = (shape: Shape, name: string, j: string): string =>
  `p.${name}_at + ${keyRow(shape, j)} * p.${name}_0 + group.y * p.${name}_1`;

function forwardSource(shape: Shape): string {
  const { rows, keys, size, paged } = shape;
  const [R, C] = [SIDE * rows, SIDE * keys];
  const names = ["q", "k", "v", "out", "lse", "items", ...(paged ? ["key_rows"] : [])];
  return `${params.source}${buffers(names, ["out", "lse"], ["items", "key_rows"])}
${four("q", size)}${four("k", size)}${four("v", size)}${putFour("out", size)}
var<workgroup> tile_q: array<vec4f, ${R * pitchOf(size)}>;
var<workgroup> tile_kv: array<vec4f, ${C * pitchOf(size)}>;
var<workgroup> scores: array<f32, ${C * (R + 1)}>;
var<workgroup> most: array<f32, ${R}>;
var<workgroup> sums: array<f32, ${R}>;
var<workgroup> factors: array<f32, ${R}>;
${HEAD}${ITEM}
  ${bring("tile_q", R, size, "r0 + r < rows", rowAt("q"), "q")}
  if (lane < ${R}u) { most[lane] = ${LOWEST}; sums[lane] = 0.0; }
  ${declare("o", rows, size)}
  // The last row of the tile sees most.
  let last = min(i32(keys) - 1, i32(min(r0 + ${R - 1}u, max(rows, 1u) - 1u) / p.group) + seen);
  for (var j0 = 0u; i32(j0) <= last; j0 += ${C}u) {
    ${bring("tile_kv", C, size, "j0 + r < keys", keyAt(shape, "k", "j0 + r"), "k")}
    workgroupBarrier();
    ${products("s", "tile_q", "tile_kv", shape)}
    ${repeat(rows, (i) => repeat(keys, (j) => `scores[(id.x + ${SIDE * j}u) * ${R + 1}u + id.y + ${SIDE * i}u] = p.scale * (${total(`s${i}_${j}`)});`))}
    workgroupBarrier();
    ${bring("tile_kv", C, size, "j0 + r < keys", keyAt(shape, "v", "j0 + r"), "v")}
    if (lane < ${R}u) {
      let end = u32(clamp(min(i32(keys), i32((r0 + lane) / p.group) + seen + 1) - i32(j0), 0, ${C}));
      let before = most[lane];
      var now = before;
      for (var c = 0u; c < end; c++) { now = max(now, scores[c * ${R + 1}u + lane]); }
      let factor = exp(before - now);
      var sum = sums[lane] * factor;
      for (var c = 0u; c < ${C}u; c++) {
        var e = 0.0;
        if (c < end) { e = exp(scores[c * ${R + 1}u + lane] - now); }
        scores[c * ${R + 1}u + lane] = e;
        sum += e;
      }
      most[lane] = now;
      sums[lane] = sum;
      factors[lane] = factor;
    }
    workgroupBarrier();
    ${repeat(rows, (i) => `let g${i} = factors[id.y + ${SIDE * i}u];\n${repeat(quadsOf(size) / SIDE, (t) => `o${i}_${t} *= g${i};`)}`)}
    ${weighted("o", rows, C, size, (i) => `scores[c * ${R + 1}u + id.y + ${SIDE * i}u]`, "tile_kv")}
    workgroupBarrier();
  }
  ${repeat(
    rows,
    (i) => `{
    let r = id.y + ${SIDE * i}u;
    if (r0 + r < rows) {
      let sum = sums[r];
      let inverse = select(1.0 / sum, 0.0, sum == 0.0);
      ${repeat(quadsOf(size) / SIDE, (t) => `put_out(${rowAt("out", "target0")}, 4u * (id.x + ${SIDE * t}u), o${i}_${t} * inverse);`)}
      if (id.x == 0u && p.lse_wanted == 1u) {
        lse[p.lse_at + (group.y * p.group + (r0 + r) % p.group) * p.lse_0 + (target0 + (r0 + r) / p.group) * p.lse_1] =
          select(most[r] + log(sum), p.nothing, sum == 0.0);
      }
    }
  }`,
  )}
}`;
}

/** Probabilities and gradients to the scores of a tile, from dot products s (queries·keys) and t (gradients·values). */
function scoreGradients({ rows, keys }: Shape, pitch: number, j: string): string {
  return repeat(rows, (i) =>
    repeat(
      keys,
      (c) => `{
      let r = id.y + ${SIDE * i}u;
      let c = id.x + ${SIDE * c}u;
      var probability = 0.0;
      if (r0 + r < rows && i32(${j}) >= 0 && i32(${j}) <= i32((r0 + r) / p.group) + seen) {
        probability = exp(fma(p.scale, ${total(`s${i}_${c}`)}, -row_lse[r]));
      }
      chances[c * ${pitch}u + r] = probability;
      slopes[c * ${pitch}u + r] = probability * (${total(`t${i}_${c}`)} - row_delta[r]) * p.scale;
    }`,
    ),
  );
}

/** What both gradient kernels need of every row: its log-sum-exp, and Σ grad·out. */
function rowsSource(size: number): string {
  return `${params.source}${buffers(["out", "lse", "grad", "rows"], ["rows"], [])}
@compute @workgroup_size(${LANES})
fn main(@builtin(global_invocation_id) id: vec3u) {
  let query = id.x;
  let head = id.y;
  if (query >= p.queries) { return; }
  var sum = 0.0;
  for (var d = 0u; d < ${size}u; d++) {
    sum = fma(grad[p.grad_at + query * p.grad_0 + head * p.grad_1 + d], out[p.out_at + query * p.out_0 + head * p.out_1 + d], sum);
  }
  let at = 2u * (head * p.queries + query);
  rows[at] = lse[p.lse_at + head * p.lse_0 + query * p.lse_1];
  rows[at + 1u] = sum;
}`;
}

/** Copies what {@link rowsSource} found for the tile's rows. */
const BRING_ROWS = (count: number): string => `if (lane < ${count}u && r0 + lane < rows) {
        let at = 2u * ((group.y * p.group + (r0 + lane) % p.group) * p.queries + query0 + (r0 + lane) / p.group);
        row_lse[lane] = found[at];
        row_delta[lane] = found[at + 1u];
      }`;

/** The gradient to queries. */
function queriesSource(shape: Shape): string {
  const { rows, keys, size } = shape;
  const [R, C] = [SIDE * rows, SIDE * keys];
  const names = ["q", "k", "v", "grad", "found", "dq", "items"];
  return `${params.source}${buffers(names, ["dq"], ["items"])}
${["q", "k", "v", "grad"].map((name) => four(name, size)).join("")}${putFour("dq", size)}
var<workgroup> tile_q: array<vec4f, ${R * pitchOf(size)}>;
var<workgroup> tile_g: array<vec4f, ${R * pitchOf(size)}>;
var<workgroup> tile_k: array<vec4f, ${C * pitchOf(size)}>;
var<workgroup> tile_v: array<vec4f, ${C * pitchOf(size)}>;
var<workgroup> chances: array<f32, ${C * (R + 1)}>;
var<workgroup> slopes: array<f32, ${C * (R + 1)}>;
var<workgroup> row_lse: array<f32, ${R}>;
var<workgroup> row_delta: array<f32, ${R}>;
${HEAD}${ITEM}
  ${bring("tile_q", R, size, "r0 + r < rows", rowAt("q"), "q")}
  ${bring("tile_g", R, size, "r0 + r < rows", rowAt("grad"), "grad")}
  ${BRING_ROWS(R)}
  ${declare("o", rows, size)}
  let last = min(i32(keys) - 1, i32(min(r0 + ${R - 1}u, max(rows, 1u) - 1u) / p.group) + seen);
  for (var j0 = 0u; i32(j0) <= last; j0 += ${C}u) {
    workgroupBarrier();
    ${bring("tile_k", C, size, "j0 + r < keys", keyAt(shape, "k", "j0 + r"), "k")}
    ${bring("tile_v", C, size, "j0 + r < keys", keyAt(shape, "v", "j0 + r"), "v")}
    workgroupBarrier();
    ${products("s", "tile_q", "tile_k", shape)}
    ${products("t", "tile_g", "tile_v", shape)}
    ${scoreGradients(shape, R + 1, "j0 + c")}
    workgroupBarrier();
    ${weighted("o", rows, C, size, (i) => `slopes[c * ${R + 1}u + id.y + ${SIDE * i}u]`, "tile_k")}
  }
  ${repeat(
    rows,
    (i) => `{
    let r = id.y + ${SIDE * i}u;
    if (r0 + r < rows) {
      ${repeat(quadsOf(size) / SIDE, (t) => `put_dq(${rowAt("dq")}, 4u * (id.x + ${SIDE * t}u), o${i}_${t});`)}
    }
  }`,
  )}
}`;
}

/**
 * The gradients to keys and values: a workgroup has a tile of keys and passes by it all rows that see it, segment by segment, so
 * sums have one order and need no atomics.
 */
function keysSource(shape: Shape): string {
  const { rows, keys, size } = shape;
  const [R, C] = [SIDE * rows, SIDE * keys];
  const names = ["q", "k", "v", "grad", "found", "dk", "dv", "items"];
  return `${params.source}${buffers(names, ["dk", "dv"], ["items"])}
${["q", "k", "v", "grad"].map((name) => four(name, size)).join("")}${putFour("dk", size)}${putFour("dv", size)}
var<workgroup> tile_q: array<vec4f, ${R * pitchOf(size)}>;
var<workgroup> tile_g: array<vec4f, ${R * pitchOf(size)}>;
var<workgroup> tile_k: array<vec4f, ${C * pitchOf(size)}>;
var<workgroup> tile_v: array<vec4f, ${C * pitchOf(size)}>;
var<workgroup> chances: array<f32, ${C * (R + 1)}>;
var<workgroup> slopes: array<f32, ${C * (R + 1)}>;
var<workgroup> row_lse: array<f32, ${R}>;
var<workgroup> row_delta: array<f32, ${R}>;
${HEAD}
  let first = group.x * ${C}u;
  ${bring("tile_k", C, size, "first + r < p.keys", "p.k_at + (first + r) * p.k_0 + group.y * p.k_1", "k")}
  ${bring("tile_v", C, size, "first + r < p.keys", "p.v_at + (first + r) * p.v_0 + group.y * p.v_1", "v")}
  ${declare("x", keys, size)}
  ${declare("y", keys, size)}
  let segments = items[2u * group.x + 1u];
  for (var s = 0u; s < segments; s++) {
    let at = items[2u * group.x] + 4u * s;
    let query0 = items[at];
    let queries = items[at + 1u];
    let key0 = items[at + 2u];
    let keys = items[at + 3u];
    let rows = queries * p.group;
    let seen = i32(keys) - i32(queries);
    // The first query that sees a key of this tile, and its tile of rows.
    let nearest = u32(max(0, i32(first) - i32(key0) - seen)) * p.group;
    for (var r0 = nearest / ${R}u * ${R}u; r0 < rows; r0 += ${R}u) {
      workgroupBarrier();
      ${bring("tile_q", R, size, "r0 + r < rows", rowAt("q"), "q")}
      ${bring("tile_g", R, size, "r0 + r < rows", rowAt("grad"), "grad")}
      ${BRING_ROWS(R)}
      workgroupBarrier();
      ${products("s", "tile_q", "tile_k", shape)}
      ${products("t", "tile_g", "tile_v", shape)}
      ${scoreGradients(shape, R + 1, "first + c) - i32(key0")}
      workgroupBarrier();
      ${weighted("x", keys, R, size, (i) => `slopes[(id.y + ${SIDE * i}u) * ${R + 1}u + c]`, "tile_q")}
      ${weighted("y", keys, R, size, (i) => `chances[(id.y + ${SIDE * i}u) * ${R + 1}u + c]`, "tile_g")}
    }
  }
  ${repeat(
    keys,
    (j) => `{
    let key = first + id.y + ${SIDE * j}u;
    if (key < p.keys) {
      ${repeat(
        quadsOf(size) / SIDE,
        (t) => `put_dk(p.dk_at + key * p.dk_0 + group.y * p.dk_1, 4u * (id.x + ${SIDE * t}u), x${j}_${t});
      put_dv(p.dv_at + key * p.dv_0 + group.y * p.dv_1, 4u * (id.x + ${SIDE * t}u), y${j}_${t});`,
      )}
    }
  }`,
  )}
}`;
}

/** Segments for all queries: those without one see no key. */
function covering(segments: readonly Segment[], queries: number): Segment[] {
  const sorted = segments.filter((s) => s.queries > 0).toSorted((a, b) => a.query - b.query);
  const all: Segment[] = [];
  let next = 0;
  for (const s of [...sorted, { query: queries, queries: 0, key: 0, keys: 0 }]) {
    if (s.query > next) all.push({ query: next, queries: s.query - next, key: 0, keys: 0 });
    if (s.queries > 0) all.push(s);
    next = Math.max(next, s.query + s.queries);
  }
  return all;
}

/** Queries with the keys that one workgroup passes by them. */
interface Piece extends Segment {
  /** Query i sees key j of the piece where j ≤ i + seen. */
  readonly seen: number;
  /** The row of the first query's result. */
  readonly target: number;
}

const whole = (s: Segment): Piece => ({ ...s, seen: s.keys - s.queries, target: s.query });

/** A tile of rows after another: piece and first row. */
function itemsOf(pieces: readonly Piece[], group: number, rows: number): Uint32Array {
  const items: number[] = [];
  for (const s of pieces) {
    for (let r = 0; r < s.queries * group; r += rows)
      items.push(s.query, s.queries, s.key, s.keys, s.seen, s.target, r);
  }
  return Uint32Array.from(items);
}

/** For every tile of keys: where its list of segments begins in the table, and how many they are; then the lists. */
function listsOf(segments: readonly Segment[], keys: number, tile: number): Uint32Array {
  const tiles = Math.ceil(keys / tile);
  const heads: number[] = [];
  const lists: number[] = [];
  for (let t = 0; t < tiles; t++) {
    const within = segments.filter((s) => s.queries > 0 && s.key < (t + 1) * tile && s.key + s.keys > t * tile);
    heads.push(2 * tiles + lists.length, within.length);
    for (const s of within) lists.push(s.query, s.queries, s.key, s.keys);
  }
  return Uint32Array.from([...heads, ...lists]);
}

const OP = "attention";

/** Few queries with more keys than these are shared by several workgroups, a run of {@link RUN} keys each. */
const LONG = 512;
const RUN = 256;

const isLong = ({ queries, keys }: Segment, { rows }: AttentionOptions): boolean =>
  keys > LONG && (rows ?? (queries <= FEW_ROWS ? "few" : "many")) === "few";

/** `Device.attention`. */
export function attention(
  context: GpuContext,
  tiling: Pick<Tiling, "attentionSide">,
  q: View,
  k: View,
  v: View,
  options: AttentionOptions,
  out: View,
  lse: View | undefined,
): void {
  const [queries] = q.shape;
  if (queries === 0) return;
  apart(context, lse ? [out, lse] : [out], [q, k, v] as const, ([q, k, v]) => {
    const operands = { q, k, v, options };
    const segments = covering(options.segments, queries);
    const short = segments.filter((s) => !isLong(s, options));
    const long = segments.filter((s) => isLong(s, options));
    if (short.length > 0) forward(context, tiling, operands, short.map(whole), out, lse, 0);
    if (long.length > 0) inRuns(context, tiling, operands, long, out, lse);
  });
}

interface Operands {
  readonly q: View;
  readonly k: View;
  readonly v: View;
  readonly options: AttentionOptions;
}

/** Results of pieces, each normalised on its own. `nothing` is the log-sum-exp of a query that sees no key. */
function forward(
  context: GpuContext,
  { attentionSide }: Pick<Tiling, "attentionSide">,
  { q, k, v, options }: Operands,
  pieces: readonly Piece[],
  out: View,
  lse: View | undefined,
  nothing: number,
): void {
  const [queries, heads, size] = q.shape;
  const group = heads / k.shape[1];
  const side = sideFor(
    context,
    attentionSide,
    (n) => 2 * SIDE * n * headBytes(size) + 4 * (SIDE * n * (SIDE * n + 1) + 3 * SIDE * n),
  );
  const few = pieces.every((s) => s.queries * group <= SIDE);
  const shape: Shape = { rows: few ? 1 : side, keys: side, size, paged: options.keyRows !== undefined };
  const key = `attention-${shape.rows}-${shape.keys}-${size}-${shape.paged}`;
  const kernel = context.kernel(key, () => ({
    code: forwardSource(shape),
    access: shape.paged ? "rrrwwrr" : "rrrwwr",
  }));
  // A log-sum-exp that nobody wants still needs a buffer to be bound.
  const unused = lse ? undefined : temporary(context, [1]);
  const at = (view: View) => ({ view, ...context.bind(view, OP) });
  const views = { q: at(q), k: at(k), v: at(v), out: at(out), lse: at(lse ?? { ...unused!.view, strides: [0] }) };
  const rows = options.keyRows && at(options.keyRows);
  const items = itemsOf(pieces, group, SIDE * shape.rows);
  const values = {
    ...valuesOf({ ...views, rows }),
    ...{ queries, group, scale: options.scale, lse_wanted: lse ? 1 : 0, nothing },
  };
  const bindings = [...Object.values(views).map((view) => view.binding), ...context.tables(items)];
  context.run(kernel, params.words(values), rows ? [...bindings, rows.binding] : bindings, [
    items.length / ITEM_WORDS,
    k.shape[1],
  ]);
  unused?.free();
}

/** Puts together what runs of a query's keys gave: their results weighed by their sums of exponentials. */
const joinSource = (size: number): string => `${params.source}
${buffers(["parts", "part_lse", "out", "lse", "items"], ["out", "lse"], ["items"])}
@compute @workgroup_size(${LANES})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let head = group.y;
  let query = items[4u * group.x];
  let first = items[4u * group.x + 1u];
  let count = items[4u * group.x + 2u];
  let step = items[4u * group.x + 3u];
  var most = ${LOWEST};
  for (var c = 0u; c < count; c++) { most = max(most, part_lse[head * p.keys + first + c * step]); }
  var sum = 0.0;
  for (var c = 0u; c < count; c++) { sum += exp(part_lse[head * p.keys + first + c * step] - most); }
  for (var d = lane; d < ${size}u; d += ${LANES}u) {
    var value = 0.0;
    for (var c = 0u; c < count; c++) {
      let part = first + c * step;
      value = fma(exp(part_lse[head * p.keys + part] - most), parts[(part * p.queries + head) * ${size}u + d], value);
    }
    out[p.out_at + query * p.out_0 + head * p.out_1 + d] = value / sum;
  }
  if (lane == 0u && p.lse_wanted == 1u) { lse[p.lse_at + head * p.lse_0 + query * p.lse_1] = most + log(sum); }
}`;

/** Attention of few queries to many keys (flash decoding, Dao et al. 2023). */
function inRuns(
  context: GpuContext,
  tiling: Pick<Tiling, "attentionSide">,
  operands: Operands,
  segments: readonly Segment[],
  out: View,
  lse: View | undefined,
): void {
  const [, heads, size] = operands.q.shape;
  const pieces: Piece[] = [];
  const joins: number[] = [];
  let target = 0;
  for (const { query, queries, key, keys } of segments) {
    const runs = Math.ceil(keys / RUN);
    for (let i = 0; i < queries; i++) joins.push(query + i, target + i, runs, queries);
    for (let from = 0; from < keys; from += RUN) {
      const seen = keys - queries - from;
      pieces.push({ query, queries, key: key + from, keys: Math.min(RUN, keys - from), seen, target });
      target += queries;
    }
  }
  const [parts, partLse] = [temporary(context, [target, heads, size]), temporary(context, [heads, target])];
  forward(context, tiling, operands, pieces, parts.view, partLse.view, Number(LOWEST));
  const kernel = context.kernel(`attention-join-${size}`, () => ({ code: joinSource(size), access: "rrwwr" }));
  const unused = lse ? undefined : temporary(context, [1]);
  const at = (view: View) => ({ view, ...context.bind(view, OP) });
  const results = { out: at(out), lse: at(lse ?? { ...unused!.view, strides: [0] }) };
  // The shader's `keys` are the parts of a head, its `queries` the heads.
  const values = { ...valuesOf(results), keys: target, queries: heads, lse_wanted: lse ? 1 : 0 };
  const [from, fromLse] = [at(parts.view), at(partLse.view)];
  const bound = [from, fromLse, results.out, results.lse].map((view) => view.binding);
  const table = context.tables(Uint32Array.from(joins));
  context.run(kernel, params.words(values), [...bound, ...table], [joins.length / 4, heads]);
  for (const memory of [parts, partLse, unused]) memory?.free();
}

/** `Device.attentionBackward`. */
export function attentionBackward(
  context: GpuContext,
  { attentionSide }: Pick<Tiling, "attentionSide">,
  grad: View,
  q: View,
  k: View,
  v: View,
  out: View,
  lse: View,
  options: AttentionOptions,
  gradQ: View,
  gradK: View,
  gradV: View,
): void {
  const [queries, heads, size] = q.shape;
  const [keys, kvHeads] = k.shape;
  const group = heads / kvHeads;
  if (keys === 0 && queries === 0) return;
  apart(context, [gradQ, gradK, gradV], [grad, q, k, v, out, lse] as const, ([grad, q, k, v, out, lse]) => {
    const side = sideFor(
      context,
      attentionSide,
      (n) => 4 * SIDE * n * headBytes(size) + 4 * (2 * SIDE * n * (SIDE * n + 1) + 2 * SIDE * n),
    );
    const shape: Shape = { rows: side, keys: side, size };
    const name = `${side}-${size}`;
    const rows = temporary(context, [heads, Math.max(1, queries), 2]);
    const at = (view: View) => ({ view, ...context.bind(view, "attentionBackward") });
    const views = {
      ...{ q: at(q), k: at(k), v: at(v), out: at(out), lse: at(lse), grad: at(grad), found: at(rows.view) },
      ...{ dq: at(gradQ), dk: at(gradK), dv: at(gradV) },
    };
    const values = params.words({ ...valuesOf(views), queries, keys, group, scale: options.scale });
    const bound = (...names: (keyof typeof views)[]) => names.map((name) => views[name].binding);
    if (queries > 0) {
      const toRows = context.kernel(`attention-rows-${size}`, () => ({ code: rowsSource(size), access: "rrrw" }));
      context.run(toRows, values, bound("out", "lse", "grad", "found"), [Math.ceil(queries / LANES), heads]);
      const toQueries = context.kernel(`attention-dq-${name}`, () => ({
        code: queriesSource(shape),
        access: "rrrrrwr",
      }));
      const items = itemsOf(covering(options.segments, queries).map(whole), group, SIDE * side);
      const [table] = context.tables(items);
      context.run(
        toQueries,
        values,
        [...bound("q", "k", "v", "grad", "found", "dq"), table],
        [items.length / ITEM_WORDS, kvHeads],
      );
    }
    if (keys > 0) {
      const toKeys = context.kernel(`attention-dkv-${name}`, () => ({ code: keysSource(shape), access: "rrrrrwwr" }));
      const [table] = context.tables(listsOf(options.segments, keys, SIDE * side));
      const groups = [Math.ceil(keys / (SIDE * side)), kvHeads] as const;
      context.run(toKeys, values, [...bound("q", "k", "v", "grad", "found", "dk", "dv"), table], groups);
    }
    rows.free();
  });
}
