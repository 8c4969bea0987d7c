// Scalar expressions as WGSL. Whole numbers of i32 inputs are computed as i32, because f32 holds them to 2²⁴ only.
import type { DType } from "../../dtype.ts";
import { type BinaryName, type Expr, topological, type UnaryName } from "../../expr/expr.ts";

type Kind = "f32" | "i32";

/** A computed value. One without a kind is a number that is the same as either. */
interface Value {
  readonly kind: Kind | undefined;
  readonly as: { readonly f32: string; readonly i32: string };
}

const UNARY: { readonly [K in UnaryName]: (a: string) => string } = {
  neg: (a) => `-(${a})`,
  abs: (a) => `abs(${a})`,
  sign: (a) => `sign_of(${a})`,
  floor: (a) => `floor(${a})`,
  ceil: (a) => `ceil(${a})`,
  round: (a) => `round(${a})`,
  sqrt: (a) => `sqrt_of(${a})`,
  exp: (a) => `exp_of(${a})`,
  log: (a) => `log_of(${a})`,
  sin: (a) => `sin_of(${a})`,
  cos: (a) => `cos_of(${a})`,
  tanh: (a) => `tanh_of(${a})`,
  erf: (a) => `erf_of(${a})`,
};

/** What is exact on whole numbers. */
const WHOLE_UNARY: { readonly [K in UnaryName]?: (a: string) => string } = {
  neg: (a) => `-(${a})`,
  abs: (a) => `abs(${a})`,
  sign: (a) => `sign(${a})`,
  floor: (a) => a,
  ceil: (a) => a,
  round: (a) => a,
};

const BINARY: { readonly [K in BinaryName]: (a: string, b: string) => string } = {
  add: (a, b) => `${a} + ${b}`,
  sub: (a, b) => `${a} - ${b}`,
  mul: (a, b) => `${a} * ${b}`,
  div: (a, b) => `${a} / ${b}`,
  pow: (a, b) => `pow_of(${a}, ${b})`,
  max: (a, b) => `max_of(${a}, ${b})`,
  min: (a, b) => `min_of(${a}, ${b})`,
  lt: (a, b) => `lt_of(${a}, ${b})`,
  le: (a, b) => `le_of(${a}, ${b})`,
  eq: (a, b) => `eq_of(${a}, ${b})`,
  ne: (a, b) => `1i - eq_of(${a}, ${b})`,
};

const WHOLE_BINARY: { readonly [K in BinaryName]?: (a: string, b: string) => string } = {
  add: BINARY.add,
  sub: BINARY.sub,
  mul: BINARY.mul,
  max: (a, b) => `max(${a}, ${b})`,
  min: (a, b) => `min(${a}, ${b})`,
  lt: (a, b) => `select(0i, 1i, ${a} < ${b})`,
  le: (a, b) => `select(0i, 1i, ${a} <= ${b})`,
  eq: (a, b) => `select(0i, 1i, ${a} == ${b})`,
  ne: (a, b) => `select(0i, 1i, ${a} != ${b})`,
};

const COMPARISONS: readonly BinaryName[] = ["lt", "le", "eq", "ne"];

/** Is the number an i32? */
export function isWhole(value: number): boolean {
  return Number.isInteger(value) && Math.abs(value) < 2 ** 31 && !Object.is(value, -0);
}

/** A number as an f32 literal. */
export function literal(value: number): string {
  const x = Math.fround(value);
  if (Number.isNaN(x)) return "nan()";
  if (!Number.isFinite(x)) return x > 0 ? "inf()" : "(-inf())";
  return Object.is(x, -0) || x < 0 ? `(-${-x}f)` : `${x}f`;
}

/** How a program's operands appear in the kernel. */
export interface Operands {
  readonly inputs: readonly { readonly text: string; readonly dtype: DType }[];
  /** Parameters: text of the words with their value as f32 bits and as i32, and whether they are whole numbers. */
  readonly params: readonly { readonly f32: string; readonly i32: string; readonly whole: boolean }[];
}

/** Translates one or more expressions over the same operands; common parts are computed once. */
export class Translation {
  readonly statements: string[] = [];
  readonly #values = new Map<Expr, Value>();
  readonly #operands: Operands;

  constructor(operands: Operands) {
    this.#operands = operands;
  }

  /** The expression's value as `kind`, or as it comes. */
  value(root: Expr, kind?: Kind): { readonly text: string; readonly kind: Kind } {
    for (const e of topological(root)) if (!this.#values.has(e)) this.#values.set(e, this.#translate(e));
    const value = this.#values.get(root)!;
    const found = kind ?? value.kind ?? "f32";
    return { text: value.as[found], kind: found };
  }

  #name(e: Expr, kind: Kind, text: string): Value {
    const name = `t${e.id}`;
    this.statements.push(`let ${name} = ${text};`);
    return value(kind, name);
  }

  #translate(e: Expr): Value {
    const { node } = e;
    const at = (x: Expr): Value => this.#values.get(x)!;
    switch (node.kind) {
      case "const": {
        const whole = isWhole(node.value);
        return {
          kind: whole ? undefined : "f32",
          as: { f32: literal(node.value), i32: whole ? `${node.value}i` : `i32(${literal(node.value)})` },
        };
      }
      case "param": {
        const { f32, i32, whole } = this.#operands.params[node.index];
        return { kind: whole ? undefined : "f32", as: { f32, i32: whole ? i32 : `i32(${f32})` } };
      }
      case "input": {
        const { text, dtype } = this.#operands.inputs[node.index];
        return this.#name(e, dtype === "i32" ? "i32" : "f32", text);
      }
      case "unary": {
        const a = at(node.a);
        const whole = WHOLE_UNARY[node.op];
        if (a.kind === "i32" && whole) return this.#name(e, "i32", whole(a.as.i32));
        return this.#name(e, "f32", UNARY[node.op](a.as.f32));
      }
      case "binary": {
        const [a, b] = [at(node.a), at(node.b)];
        const kind = joined(a, b);
        const whole = WHOLE_BINARY[node.op];
        if (kind === "i32" && whole) return this.#name(e, "i32", whole(a.as.i32, b.as.i32));
        const result = COMPARISONS.includes(node.op) ? "i32" : "f32";
        return this.#name(e, result, BINARY[node.op](a.as.f32, b.as.f32));
      }
      case "select": {
        const [test, a, b] = [at(node.test), at(node.a), at(node.b)];
        const kind = joined(a, b);
        const taken = test.kind === "i32" ? `${test.as.i32} != 0i` : `is_true(${test.as.f32})`;
        return this.#name(e, kind, `select(${b.as[kind]}, ${a.as[kind]}, ${taken})`);
      }
    }
  }
}

function value(kind: Kind, text: string): Value {
  return { kind, as: kind === "f32" ? { f32: text, i32: `i32(${text})` } : { f32: `f32(${text})`, i32: text } };
}

/** Whole where one is an i32 and the other at least a whole number. */
function joined(a: Value, b: Value): Kind {
  if (a.kind === "f32" || b.kind === "f32") return "f32";
  return a.kind === "i32" || b.kind === "i32" ? "i32" : "f32";
}
