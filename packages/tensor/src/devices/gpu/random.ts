// Random numbers: Philox in 32-bit integers, bit for bit the reference's words.
import { sizeOf } from "../../shape.ts";
import type { RandomKey, View } from "../device.ts";
import type { GpuContext, Word } from "./context.ts";
import { eachItem, ITEMS, libraryFor, parameters, slot, storages } from "./shader.ts";

/** The definition is `Device.random`'s. */
export function random(gpu: GpuContext, kind: "uniform" | "normal", key: RandomKey, out: View): void {
  const n = sizeOf(out.shape);
  if (n === 0) return;
  for (const { row: start, view } of gpu.rowWindows({ ...out, shape: [n], strides: [1] })) {
    const [count] = view.shape;
    const to = gpu.bind(view, "random");
    const kernel = gpu.kernel(`random ${kind}`, () => {
      const four =
        kind === "uniform"
          ? "let v = vec4f(words >> vec4u(8u)) * 5.9604644775390625e-8;"
          : `let a = normals(words.x, words.y);
  let b = normals(words.z, words.w);
  let v = vec4f(a, b);`;
      // Box & Muller, 1958; the angle's quarter turns are taken off exactly.
      const normals =
        kind === "uniform"
          ? ""
          : `fn normals(a: u32, b: u32) -> vec2f {
  let radius = sqrt_of(-2.0 * log_of(f32((a >> 8u) + 1u) * 5.9604644775390625e-8));
  let turns = f32(b >> 8u) * 5.9604644775390625e-8;
  let quarter = round(turns * 4.0);
  let rest = (turns - quarter * 0.25) * ${Math.fround(2 * Math.PI)}f;
  return radius * vec2f(quarter_sin(i32(quarter) + 1, rest), quarter_sin(i32(quarter), rest));
}`;
      const body = `${normals}${eachItem(
        slot(8),
        `  let block = i + ${slot(9)};
  let words = philox(vec4u(block, ${slot(2)} + select(0u, 1u, block < i), 0u, ${slot(4)}), vec2u(${slot(5)}, ${slot(6)}));
  ${four}
  for (var j = 0u; j < 4u; j++) {
    let e = i * 4u + j;
    if (e < ${slot(0)}) { b1[${slot(1)} + e] = bitcast<u32>(v[j]); }
  }`,
      )}`;
      // The quarter's sine comes with `turn`.
      const library = libraryFor(kind === "normal" ? `${body} turn(` : body);
      return { code: `${parameters(12)}${storages("w")}\n${library}\n${body}`, access: "w" };
    });
    const block = start / 4;
    const words: Word[] = [
      ...[count, to.first, Math.floor(block / 2 ** 32), 0],
      ...[key.stream, key.seed[0], key.seed[1], 0],
      ...[Math.ceil(count / 4), block % 2 ** 32, 0, 0],
    ];
    gpu.run(kernel, words, [to.binding], gpu.spread(Math.ceil(count / 4 / ITEMS)));
  }
}

/** The definition is `Device.dropout`'s. */
export function dropout(gpu: GpuContext, x: View, rows: View, p: number, key: RandomKey, out: View): void {
  const [count, features] = x.shape;
  if (count === 0 || features === 0) return;
  const same = x.storage === out.storage;
  const [from, places, to] = [x, rows, out].map((view) => gpu.bind(view, "dropout"));
  const fours = Math.ceil(features / 4);
  const kernel = gpu.kernel(`dropout ${same ? "in place" : ""}`, () => {
    const letters = same ? "rw" : "rwr";
    const input = same ? "b2" : "b3";
    const body = eachItem(
      slot(0),
      `  let f = (i % ${slot(1)}) * 4u;
  let r = i / ${slot(1)};
  let at = ${slot(15)} + r * ${slot(16)};
  let words = philox(vec4u(f / 4u, b1[at + ${slot(17)}], b1[at], ${slot(4)}), vec2u(${slot(5)}, ${slot(6)}));
  for (var j = 0u; j < 4u && f + j < ${slot(2)}; j++) {
    let value = bitcast<f32>(${input}[${slot(9)} + r * ${slot(10)} + (f + j) * ${slot(11)}]);
    // Selected, not multiplied: a dropped infinity is 0, not NaN.
    let kept = select(0.0, value * bitcast<f32>(${slot(8)}), words[j] >= ${slot(7)});
    b2[${slot(12)} + r * ${slot(13)} + (f + j) * ${slot(14)}] = bitcast<u32>(kept);
  }`,
    );
    return { code: `${parameters(18)}${storages(letters)}\n${libraryFor(body)}\n${body}`, access: letters };
  });
  const words: Word[] = [
    ...[count * fours, fours, features, 0],
    ...[key.stream, key.seed[0], key.seed[1], Math.ceil(p * 2 ** 32)],
    { f32: 1 / (1 - p) },
    ...[from.first, ...x.strides],
    ...[to.first, ...out.strides],
    ...[places.first, ...rows.strides],
  ];
  const bindings = [places.binding, to.binding, ...(same ? [] : [from.binding])];
  gpu.run(kernel, words, bindings, gpu.spread(Math.ceil((count * fours) / ITEMS)));
}
