import { type DType, fromBf16, type TypedArray, toBf16 } from "../dtype.ts";
import { type BinaryName, type Expr, topological, type UnaryName } from "./expr.ts";
import type { Program } from "./program.ts";

/**
 * A row loop: `n` elements from each array, started at `offsets` and moved by `steps` (the output's are last), written
 * (mode 0), added (1) or joined as maximum (2) or minimum (3) into the output.
 */
export type RowLoop = (
  arrays: readonly TypedArray[],
  offsets: Int32Array | number[],
  steps: readonly number[],
  n: number,
  params: readonly number[],
) => void;

/** What a row loop does with each value. */
export type Join = "set" | "sum" | "max" | "min";

const UNARY: { readonly [K in UnaryName]: (a: string) => string } = {
  neg: (a) => `-${a}`,
  abs: (a) => `Math.abs(${a})`,
  sign: (a) => `Math.sign(${a})`,
  floor: (a) => `Math.floor(${a})`,
  ceil: (a) => `Math.ceil(${a})`,
  round: (a) => `lib.round(${a})`,
  sqrt: (a) => `Math.sqrt(${a})`,
  exp: (a) => `Math.exp(${a})`,
  log: (a) => `Math.log(${a})`,
  sin: (a) => `Math.sin(${a})`,
  cos: (a) => `Math.cos(${a})`,
  tanh: (a) => `Math.tanh(${a})`,
  erf: (a) => `lib.erf(${a})`,
};

const BINARY: { readonly [K in BinaryName]: (a: string, b: string) => string } = {
  add: (a, b) => `${a} + ${b}`,
  sub: (a, b) => `${a} - ${b}`,
  mul: (a, b) => `${a} * ${b}`,
  div: (a, b) => `${a} / ${b}`,
  pow: (a, b) => `lib.pow(${a}, ${b})`,
  max: (a, b) => `Math.max(${a}, ${b})`,
  min: (a, b) => `Math.min(${a}, ${b})`,
  lt: (a, b) => `(${a} < ${b} ? 1 : 0)`,
  le: (a, b) => `(${a} <= ${b} ? 1 : 0)`,
  eq: (a, b) => `(${a} === ${b} ? 1 : 0)`,
  ne: (a, b) => `(${a} !== ${b} ? 1 : 0)`,
};

const lib = {
  fromBf16,
  toBf16,
  /** Ties to even. */
  round(x: number): number {
    const down = Math.floor(x);
    const rest = x - down;
    if (rest !== 0.5) return rest < 0.5 ? down : down + 1;
    return down % 2 === 0 ? down : down + 1;
  },
  pow,
  erf,
};

/** JavaScript's 1**NaN is NaN and (±1)**±∞ too, where C's pow (and PyTorch) gives 1. */
export function pow(x: number, y: number): number {
  if (x === 1 || (x === -1 && Math.abs(y) === Infinity)) return 1;
  return x ** y;
}

/** Error function to 1e-15: the series near 0, the continued fraction of erfc beyond (Abramowitz & Stegun 7.1.5, 7.1.14). */
export function erf(x: number): number {
  const a = Math.abs(x);
  if (!(a < 6)) return Number.isNaN(x) ? Number.NaN : Math.sign(x);
  if (a < 2.5) {
    let term = x;
    let sum = x;
    for (let n = 1; Math.abs(term) > 1e-17 * Math.abs(sum); n++) {
      term *= -(x * x) / n;
      sum += term / (2 * n + 1);
    }
    return (2 / Math.sqrt(Math.PI)) * sum;
  }
  let fraction = 0;
  for (let n = 60; n > 0; n--) fraction = n / 2 / (a + fraction);
  return Math.sign(x) * (1 - Math.exp(-a * a) / (Math.sqrt(Math.PI) * (a + fraction)));
}

/** The statements that compute a program; `read(i)` gives the text of input i. Returns the text of the result. */
export function statements(root: Expr, read: (index: number) => string, into: string[]): string {
  const name = new Map<Expr, string>();
  for (const e of topological(root)) {
    const node = e.node;
    const at = (x: Expr): string => name.get(x)!;
    let text: string;
    if (node.kind === "const") {
      name.set(
        e,
        node.value < 0 || Object.is(node.value, -0)
          ? `(${Object.is(node.value, -0) ? "-0" : node.value})`
          : `${node.value}`,
      );
      continue;
    } else if (node.kind === "param") {
      name.set(e, `p[${node.index}]`);
      continue;
    } else if (node.kind === "input") text = read(node.index);
    else if (node.kind === "unary") text = UNARY[node.op](at(node.a));
    else if (node.kind === "binary") text = BINARY[node.op](at(node.a), at(node.b));
    else text = `${at(node.test)} !== 0 ? ${at(node.a)} : ${at(node.b)}`;
    name.set(e, `t${e.id}`);
    into.push(`const t${e.id} = ${text};`);
  }
  return name.get(root)!;
}

const compiled = new Map<string, RowLoop>();

/** The program as a JavaScript row loop over arrays of these types (the output's last), compiled once. */
export function rowLoop(program: Program, dtypes: readonly DType[], join: Join): RowLoop {
  const key = `${program.key}|${dtypes.join()}|${join}`;
  let loop = compiled.get(key);
  if (!loop) {
    loop = compile(program, dtypes, join);
    compiled.set(key, loop);
  }
  return loop;
}

function compile(program: Program, dtypes: readonly DType[], join: Join): RowLoop {
  const out = program.inputs;
  const load = (i: number): string => (dtypes[i] === "bf16" ? `lib.fromBf16(a${i}[o${i}])` : `a${i}[o${i}]`);
  const body: string[] = [];
  const value = statements(program.root, load, body);
  const old = load(out);
  const joined = {
    set: value,
    sum: `${old} + ${value}`,
    max: `Math.max(${old}, ${value})`,
    min: `Math.min(${old}, ${value})`,
  }[join];
  const all = Array.from({ length: out + 1 }, (_, i) => i);
  const source = [
    ...all.map((i) => `const a${i} = arrays[${i}], s${i} = steps[${i}]; let o${i} = offsets[${i}];`),
    "for (let i = 0; i < n; i++) {",
    ...body,
    `a${out}[o${out}] = ${dtypes[out] === "bf16" ? `lib.toBf16(${joined})` : joined};`,
    all.map((i) => `o${i} += s${i};`).join(" "),
    "}",
  ].join("\n");
  return new Function("lib", `"use strict"; return (arrays, offsets, steps, n, p) => {\n${source}\n};`)(lib) as RowLoop;
}
