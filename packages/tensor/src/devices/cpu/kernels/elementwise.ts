// Any elementwise program as a kernel: the scalar expression becomes vector code, one pass over the operands.
import { type BinaryName, type Expr, topological, type UnaryName } from "../../../expr/expr.ts";
import type { Program } from "../../../expr/program.ts";
import type { Builder } from "../lang/builder.ts";
import { type ArgumentType, defineKernel, type Kernel } from "../lang/kernel.ts";
import { type F32, type Index, Pointer, type VF } from "../lang/values.ts";
import { generatedVectors, rowPointer } from "./rows.ts";
import { cos, erf, exp, log, maxNaN, minNaN, pow, sin, tanh, toBf16 } from "./vector-math.ts";

type Unary = (k: Builder, a: VF) => VF;
type Binary = (k: Builder, a: VF, b: VF) => VF;

const flag = (k: Builder, a: VF, comparison: "lt" | "le" | "eq" | "ne", b: VF) =>
  a.compare(comparison, b).select(k.vector(1), k.zero());

const UNARY: { readonly [K in UnaryName]: Unary } = {
  neg: (_k, a) => a.neg(),
  abs: (_k, a) => a.abs(),
  sign: (k, a) => a.compare("gt", 0).select(k.vector(1), a.compare("lt", 0).select(k.vector(-1), a)),
  floor: (_k, a) => a.floor(),
  ceil: (_k, a) => a.neg().floor().neg(),
  round: (_k, a) => a.round(),
  sqrt: (_k, a) => a.sqrt(),
  exp,
  log,
  tanh,
  sin,
  cos,
  erf,
};

const BINARY: { readonly [K in BinaryName]: Binary } = {
  add: (_k, a, b) => a.add(b),
  sub: (_k, a, b) => a.sub(b),
  mul: (_k, a, b) => a.mul(b),
  div: (_k, a, b) => a.div(b),
  max: (_k, a, b) => maxNaN(a, b),
  min: (_k, a, b) => minNaN(a, b),
  lt: (k, a, b) => flag(k, a, "lt", b),
  le: (k, a, b) => flag(k, a, "le", b),
  eq: (k, a, b) => flag(k, a, "eq", b),
  ne: (k, a, b) => flag(k, a, "ne", b),
  pow,
};

/** Inputs of one kernel at most: more are rare, and their addresses would not fit a block of arguments for ever. */
const MAX_INPUTS = 24;
const MAX_PARAMS = 24;

/** Whether one kernel takes the program; else the reference's loops do. */
export function fitsKernel({ inputs, params }: Program): boolean {
  return inputs <= MAX_INPUTS && params <= MAX_PARAMS;
}

/** The expression's value, given its inputs and parameters as vectors. */
export function evaluate(k: Builder, root: Expr, inputs: readonly VF[], params: readonly VF[]): VF {
  const values = new Map<Expr, VF>();
  const at = (e: Expr) => values.get(e)!;
  for (const e of topological(root)) {
    const { node } = e;
    let value: VF;
    if (node.kind === "input") value = inputs[node.index]!;
    else if (node.kind === "param") value = params[node.index]!;
    else if (node.kind === "const") value = k.vector(node.value);
    else if (node.kind === "unary") value = UNARY[node.op](k, at(node.a));
    else if (node.kind === "binary") value = BINARY[node.op](k, at(node.a), at(node.b));
    else value = at(node.test).compare("ne", 0).select(at(node.a), at(node.b));
    values.set(e, value);
  }
  return values.get(root)!;
}

/** How the operands of a program lie in a row. */
export interface ElementwiseForm {
  readonly inputs: readonly { readonly element: "f32" | "bf16"; readonly repeated: boolean }[];
  readonly out: "f32" | "bf16";
  /** Adds to what the output holds. */
  readonly accumulate: boolean;
}

/**
 * The kernel of a program: items are rows of `columns` elements, `total` in all. For each input `x0`, `x1`, … and for
 * `out` there is a row stride `s0`, `s1`, …, `so` in elements; parameters are `p0`, `p1`, ….
 */
export function elementwiseKernel(program: Program, form: ElementwiseForm): Kernel {
  const args: Record<string, ArgumentType> = {
    columns: "index",
    total: "index",
    out: `${form.out}*`,
    so: "index",
  };
  form.inputs.forEach(({ element }, i) => {
    args[`x${i}`] = `${element}*`;
    args[`s${i}`] = "index";
  });
  for (let i = 0; i < program.params; i++) args[`p${i}`] = "f32";
  return defineKernel("elementwise", args, (k, given) => {
    const index = (name: string) => given[name] as unknown as Index;
    const params = Array.from({ length: program.params }, (_, i) => (given[`p${i}`] as unknown as F32).splat());
    k.loop({ from: k.begin, to: k.end }, (row) => {
      const columns = index("columns");
      const n = columns.min(index("total").sub(row.mul(columns)));
      const out = rowPointer(given.out as Pointer, row, index("so"));
      const inputs = form.inputs.map(({ repeated }, i) => {
        const pointer = rowPointer(given[`x${i}`] as Pointer, row, index(`s${i}`));
        return repeated ? pointer.broadcast() : pointer;
      });
      generatedVectors(k, n, (i, count) => {
        const loaded = inputs.map((input) => (input instanceof Pointer ? input.at(i).load(count) : input));
        const value = evaluate(k, program.root, loaded, params);
        const place = out.at(i);
        const result = form.accumulate ? place.load(count).add(value) : value;
        if (form.out === "bf16") place.as("u16").store(toBf16(result), count);
        else place.store(result, count);
      });
    });
  });
}
