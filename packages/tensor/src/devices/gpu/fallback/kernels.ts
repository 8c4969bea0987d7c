// Kernels as gpu.js functions: one value of a result each, from arrays that lie in any strides. Index arithmetic is in f32,
// exact because no array has more than 2²⁴ elements.
import { type BinaryName, type Expr, topological, type UnaryName } from "../../../expr/expr.ts";
import type { Source } from "./backend.ts";

const call =
  (name: string) =>
  (...operands: string[]): string =>
    `${name}(${operands.join(", ")})`;

const UNARY: { readonly [K in UnaryName]: (a: string) => string } = {
  neg: (a) => `-${a}`,
  ...{ abs: call("Math.abs"), floor: call("Math.floor"), ceil: call("Math.ceil"), sqrt: call("Math.sqrt") },
  ...{ exp: call("expOf"), log: call("logOf"), sin: call("sinOf"), cos: call("cosOf") },
  ...{ sign: call("signOf"), round: call("roundOf"), tanh: call("tanhOf"), erf: call("erfOf") },
};
const BINARY: { readonly [K in BinaryName]: (a: string, b: string) => string } = {
  add: (a, b) => `${a} + ${b}`,
  sub: (a, b) => `${a} - ${b}`,
  mul: (a, b) => `${a} * ${b}`,
  div: (a, b) => `${a} / ${b}`,
  ...{ pow: call("powOf"), max: call("maxOf"), min: call("minOf") },
  ...{ lt: call("ltOf"), le: call("leOf"), eq: call("eqOf"), ne: call("neOf") },
};

/** The constants of an expression, in order: kernels get them as numbers, infinity too, which their source cannot hold. */
export function constantsOf(root: Expr): number[] {
  return topological(root).flatMap(({ node }) => (node.kind === "const" ? [Math.fround(node.value)] : []));
}

/** Statements that compute an expression, and its name; inputs are read at `places`. */
function statements(root: Expr, places: readonly string[]): { lines: string[]; result: string } {
  const names = new Map<Expr, string>();
  const lines: string[] = [];
  let constants = 0;
  for (const e of topological(root)) {
    const { node } = e;
    const of = (operand: Expr): string => names.get(operand)!;
    if (node.kind === "const") names.set(e, `k${constants++}`);
    else if (node.kind === "param") names.set(e, `p${node.index}`);
    else {
      const name = `t${lines.length}`;
      let text: string;
      if (node.kind === "input") text = `x${node.index}[${places[node.index]}]`;
      else if (node.kind === "unary") text = UNARY[node.op](of(node.a));
      else if (node.kind === "binary") text = BINARY[node.op](of(node.a), of(node.b));
      else text = call("selectOf")(of(node.test), of(node.a), of(node.b));
      names.set(e, name);
      lines.push(`const ${name} = ${text};`);
    }
  }
  return { lines, result: names.get(root)! };
}

const named = (count: number, name: string): string[] => Array.from({ length: count }, (_, i) => `${name}${i}`);

/** Statements that turn the number `i` into coordinates c0, c1, … of sizes n0, n1, … */
function coordinates(i: string, rank: number, sizes: string, c: string): string[] {
  const lines = [`const ${c}r${rank} = ${i};`];
  for (let d = rank - 1; d > 0; d--) {
    lines.push(`const ${c}r${d} = quotient(${c}r${d + 1}, ${sizes}${d});`);
    lines.push(`const ${c}${d} = ${c}r${d + 1} - ${c}r${d} * ${sizes}${d};`);
  }
  lines.push(`const ${c}0 = ${c}r1;`);
  return lines;
}

const along = (rank: number, strides: string, c: string): string[] =>
  Array.from({ length: rank }, (_, d) => `${c}${d} * ${strides}${d}`);

/** Numbers: sizes; of each array its first element and its strides; the expression's parameters; its constants. */
export function elementwiseSource(root: Expr, arrays: number, params: number, rank: number): Source {
  const { lines, result } = statements(
    root,
    Array.from({ length: arrays }, (_, v) => [`o${v}`, ...along(rank, `s${v}_`, "c")].join(" + ")),
  );
  const numbers = [
    ...named(rank, "n"),
    ...Array.from({ length: arrays }, (_, v) => [`o${v}`, ...named(rank, `s${v}_`)]).flat(),
    ...named(params, "p"),
    ...named(constantsOf(root).length, "k"),
  ];
  const body = [...coordinates("this.thread.x", rank, "n", "c"), ...lines, `return ${result};`].join("\n");
  return { arrays, numbers, body };
}

/** Values added to a partial result before that joins the whole: rounding grows with the number of parts, not of values. */
const PART = 32;

/**
 * Numbers: values of each result, the value of none, kept sizes, joined sizes; of each array its first element, kept and joined
 * strides; parameters; constants.
 */
export function reduceSource(
  join: "sum" | "max" | "min",
  root: Expr,
  arrays: number,
  params: number,
  kept: number,
  joined: number,
): Source {
  const places = Array.from({ length: arrays }, (_, v) => [`b${v}`, ...along(joined, `d${v}_`, "e")].join(" + "));
  const { lines, result } = statements(root, places);
  const both = (a: string, b: string): string => (join === "sum" ? `${a} + ${b}` : `${join}Of(${a}, ${b})`);
  const body = [
    ...coordinates("this.thread.x", kept, "n", "c"),
    ...Array.from(
      { length: arrays },
      (_, v) => `const b${v} = ${[`o${v}`, ...along(kept, `s${v}_`, "c")].join(" + ")};`,
    ),
    "let total = none;",
    `for (let whole = 0; whole < parts; whole++) {`,
    "let part = none;",
    `for (let one = 0; one < ${PART}; one++) {`,
    `const r = whole * ${PART} + one;`,
    "if (r < count) {",
    ...coordinates("r", joined, "m", "e"),
    ...lines,
    `part = ${both("part", result)};`,
    "}}",
    `total = ${both("total", "part")};`,
    "}",
    "return total;",
  ].join("\n");
  const numbers = [
    ...["count", "parts", "none", ...named(kept, "n"), ...named(joined, "m")],
    ...Array.from({ length: arrays }, (_, v) => [`o${v}`, ...named(kept, `s${v}_`), ...named(joined, `d${v}_`)]).flat(),
    ...named(params, "p"),
    ...named(constantsOf(root).length, "k"),
  ];
  return { arrays, numbers, body };
}

/** Parts of {@link reduceSource} for so many values. */
export const partsOf = (count: number): number => Math.ceil(count / PART);

/** A product of matrices in three batch dimensions. Numbers: [b1, b2, m, n, k], then first element and strides of a and of b. */
export const MATMUL: Source = {
  arrays: 2,
  numbers: [
    ...["n1", "n2", "n3", "n4", "count", "parts", "alpha"],
    ...["ao", ...named(3, "as"), "am", "ak", "bo", ...named(3, "bs"), "bk", "bn"],
  ],
  body: [
    ...coordinates("this.thread.x", 5, "n", "c"),
    "const a = ao + c0 * as0 + c1 * as1 + c2 * as2 + c3 * am;",
    "const b = bo + c0 * bs0 + c1 * bs1 + c2 * bs2 + c4 * bn;",
    "let total = 0;",
    "for (let whole = 0; whole < parts; whole++) {",
    "let part = 0;",
    `for (let one = 0; one < ${PART}; one++) {`,
    `const k = whole * ${PART} + one;`,
    "if (k < count) { part = part + x0[a + k * ak] * x1[b + k * bk]; }",
    "}",
    "total = total + part;",
    "}",
    "return alpha * total;",
  ].join("\n"),
};

/**
 * A storage's content with some elements replaced: those at first + Σ c·stride, whose new values come in order of c. Strides
 * fall, and none reaches into another. Numbers: first; of each dimension stride, size, and step in the values.
 */
export function placeSource(rank: number): Source {
  const lines = [
    "let rest = this.thread.x - first;",
    "let inside = 1;",
    "let at = 0;",
    "if (rest < 0) { inside = 0; rest = 0; }",
  ];
  for (let d = 0; d < rank; d++) {
    lines.push(
      `const c${d} = quotient(rest, s${d});`,
      `if (c${d} >= n${d}) { inside = 0; }`,
      `rest = rest - c${d} * s${d};`,
      `at = at + c${d} * m${d};`,
    );
  }
  lines.push("if (rest > 0) { inside = 0; }", "if (inside > 0) { return x1[at]; }", "return x0[this.thread.x];");
  const numbers = ["first", ...Array.from({ length: rank }, (_, d) => [`s${d}`, `n${d}`, `m${d}`]).flat()];
  return { arrays: 2, numbers, body: lines.join("\n") };
}

/** Index of the greatest value of a row, NaN being above all. Numbers: count, step, kept sizes, first element, kept strides. */
export function argmaxSource(kept: number): Source {
  const body = [
    ...coordinates("this.thread.x", kept, "n", "c"),
    `const base = ${["o", ...along(kept, "s", "c")].join(" + ")};`,
    "let best = x0[base];",
    "let at = 0;",
    "for (let i = 1; i < count; i++) {",
    "const value = x0[base + i * step];",
    "if (isNan(best) < 1) { if (value > best || isNan(value) > 0) { best = value; at = i; } }",
    "}",
    "return at;",
  ].join("\n");
  return { arrays: 1, numbers: ["count", "step", ...named(kept, "n"), "o", ...named(kept, "s")], body };
}

/** Rows of a table by number; one that it does not have is `none`. */
export const GATHER: Source = {
  arrays: 2,
  numbers: ["features", "rows", "none", "to", "tr", "tf", "io", "is"],
  body: `const n = quotient(this.thread.x, features);
const f = this.thread.x - n * features;
const row = x1[io + n * is];
if (row < 0 || row >= rows) { return none; }
return x0[to + row * tr + f * tf];`,
};

/** A table after rows were set or added, in order. x0 the table, x1 the rows, x2 their numbers. */
export const SCATTER = (mode: "set" | "add"): Source => ({
  arrays: 3,
  numbers: ["features", "count", "to", "tr", "tf", "ro", "rr", "rf", "io", "is"],
  body: `const row = quotient(this.thread.x, features);
const f = this.thread.x - row * features;
let value = x0[to + row * tr + f * tf];
for (let i = 0; i < count; i++) {
  const wanted = x2[io + i * is];
  if (wanted >= row && wanted <= row) { value = ${mode === "add" ? "Math.fround(value + x1[ro + i * rr + f * rf])" : "x1[ro + i * rr + f * rf]"}; }
}
return value;`,
});
