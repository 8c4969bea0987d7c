// Rows that are chosen: argmax, gatherRows, scatterRows.
import { isBlocks } from "../../dtype.ts";
import { sizeOf } from "../../shape.ts";
import type { View } from "../device.ts";
import { gatherBlocks } from "./blocks.ts";
import type { GpuContext } from "./context.ts";
import { accessOf, coordinates, place } from "./elementwise.ts";
import { eachGroup, eachItem, ITEMS, libraryFor, load, parameters, slot, storages, store, written } from "./shader.ts";
import { joinTeam, teamMemory, teamResult, wholeTeam } from "./team.ts";

const TEAM = 128;

/** The definition is `Device.argmax`'s. */
export function argmax(gpu: GpuContext, x: View, out: View): void {
  const outer = x.shape.slice(0, -1);
  const rows = sizeOf(outer);
  const n = x.shape.at(-1)!;
  if (rows === 0) return;
  const rank = outer.length;
  const [from, to] = [gpu.bind(x, "argmax"), gpu.bind(out, "argmax")];
  const kernel = gpu.kernel(`argmax ${x.dtype} ${rank}`, () => {
    const letters = "rw";
    // Slots: rows, columns, x's step, 0; sizes; x's first and strides; out's.
    const [xAt, outAt] = [4 + rank, 4 + rank + 1 + rank];
    const value = load("b1", x.dtype, `base + k * ${slot(2)}`);
    const key = x.dtype === "i32" ? value : `order_of(${value})`;
    const team = wholeTeam(TEAM, gpu.subgroup, "best", "vec2i", (a, b) => `first_of(${a}, ${b})`);
    const body = `
// Numbers by their bits, in their order: -0 is 0, and a NaN is above all.
fn order_of(x: f32) -> i32 {
  let u = bitcast<i32>(x);
  if ((u & 0x7fffffff) > 0x7f800000) { return 0x7fffffff; }
  return select(u, -(u & 0x7fffffff), u < 0);
}
// A key and its place, -1 where there is none: the greatest, of equal ones the first.
fn first_of(a: vec2i, b: vec2i) -> vec2i {
  return select(b, a, b.y < 0 || (a.y >= 0 && (a.x > b.x || (a.x == b.x && a.y < b.y))));
}
${teamMemory(team)}
${eachGroup(
  slot(0),
  TEAM,
  `${coordinates("i", rank, 4).join("\n")}
  let base = ${place(rank, xAt)};
  var best = vec2i(0, -1);
  for (var k = l; k < ${slot(1)}; k += ${TEAM}u) { best = first_of(best, vec2i(${key}, i32(k))); }
  ${joinTeam(team)}
  if (l == 0u) { b2[${place(rank, outAt)}] = u32((${teamResult(team)}).y); }`,
)}`;
    const code = `${parameters(outAt + 1 + rank)}${storages(letters)}\n${libraryFor(body)}\n${body}`;
    return { code, access: letters };
  });
  const words = [
    rows,
    n,
    x.strides.at(-1)!,
    0,
    ...outer,
    from.first,
    ...x.strides.slice(0, -1),
    to.first,
    ...out.strides,
  ];
  gpu.run(kernel, words, [from.binding, to.binding], gpu.spread(rows));
}

/** The definition is `Device.gatherRows`'s; a row that the table does not have comes out as NaN (or 0). */
export function gatherRows(gpu: GpuContext, table: View, index: View, out: View): void {
  const [n, features] = out.shape;
  if (n === 0 || features === 0) return;
  if (isBlocks(table.dtype)) {
    gatherBlocks(gpu, table, index, out);
    return;
  }
  const [rows, to] = [gpu.bind(index, "gatherRows"), gpu.bind(out, "gatherRows")];
  const windows = gpu.rowWindows(table);
  for (const [w, { row, view }] of windows.entries()) {
    const from = gpu.bind(view, "gatherRows");
    const kernel = gpu.kernel(`gatherRows ${table.dtype} ${out.dtype}`, () => {
      const letters = `rr${written(out.dtype)}`;
      const whole = out.dtype === "i32";
      const read = load("b1", table.dtype, `${slot(8)} + row * ${slot(9)} + f * ${slot(10)}`);
      const value = whole === (table.dtype === "i32") ? read : whole ? `i32(${read})` : `f32(${read})`;
      const body = eachItem(
        slot(0),
        `  let f = i % ${slot(1)};
  let n = i / ${slot(1)};
  let wanted = b2[${slot(11)} + n * ${slot(12)}];
  let row = wanted - ${slot(4)};
  let e = ${slot(13)} + n * ${slot(14)} + f * ${slot(15)};
  if (row < ${slot(5)}) {
    let value = ${value};
    ${store("b3", out.dtype, "e", "value")}
  } else if (wanted >= ${slot(6)} && ${slot(7)} == 1u) {
    let value = ${whole ? "0i" : "nan()"};
    ${store("b3", out.dtype, "e", "value")}
  }`,
      );
      return {
        code: `${parameters(16)}${storages(letters)}\n${libraryFor(body)}\n${body}`,
        access: accessOf(letters),
      };
    });
    const words = [
      ...[n * features, features, 0, 0],
      ...[row, view.shape[0], table.shape[0], w === 0 ? 1 : 0],
      ...[from.first, ...view.strides],
      ...[rows.first, index.strides[0]],
      ...[to.first, ...out.strides],
    ];
    gpu.run(kernel, words, [from.binding, rows.binding, to.binding], gpu.spread(Math.ceil((n * features) / ITEMS)));
  }
}

/**
 * The definition is `Device.scatterRows`'s: each invocation has one feature and takes the rows in order, so that sums are the
 * same in every run and the last of equal indices stays. A row that `out` does not have is left out.
 */
export function scatterRows(gpu: GpuContext, src: View, index: View, out: View, mode: "set" | "add"): void {
  const [n, features] = src.shape;
  if (n === 0 || features === 0) return;
  const [from, rows] = [gpu.bind(src, "scatterRows"), gpu.bind(index, "scatterRows")];
  for (const { row, view } of gpu.rowWindows(out)) {
    const to = gpu.bind(view, "scatterRows");
    const kernel = gpu.kernel(`scatterRows ${mode} ${src.dtype} ${out.dtype}`, () => {
      const letters = `rr${written(out.dtype)}`;
      const whole = out.dtype === "i32";
      const read = load("b1", src.dtype, `${slot(8)} + n * ${slot(9)} + f * ${slot(10)}`);
      const value = whole === (src.dtype === "i32") ? read : whole ? `i32(${read})` : `f32(${read})`;
      const old = mode === "add" ? `${load("b3", out.dtype, "e", out.dtype === "bf16")} + ` : "";
      const body = eachItem(
        slot(1),
        `  let f = i;
  for (var n = 0u; n < ${slot(0)}; n++) {
    let row = b2[${slot(11)} + n * ${slot(12)}] - ${slot(4)};
    if (row < ${slot(5)}) {
      let e = ${slot(13)} + row * ${slot(14)} + f * ${slot(15)};
      let value = ${old}${value};
      ${store("b3", out.dtype, "e", "value")}
    }
  }`,
      );
      return {
        code: `${parameters(16)}${storages(letters)}\n${libraryFor(body)}\n${body}`,
        access: accessOf(letters),
      };
    });
    const words = [
      ...[n, features, 0, 0],
      ...[row, view.shape[0], 0, 0],
      ...[from.first, ...src.strides],
      ...[rows.first, index.strides[0]],
      ...[to.first, ...view.strides],
    ];
    gpu.run(kernel, words, [from.binding, rows.binding, to.binding], [Math.ceil(features / ITEMS)]);
  }
}
