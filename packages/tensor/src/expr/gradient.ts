import { type BinaryName, constant, type Expr, select, topological, type UnaryName } from "./expr.ts";

/** d op(a)/da · g, given the value y = op(a). */
const UNARY: { readonly [K in UnaryName]: (g: Expr, a: Expr, y: Expr) => Expr | undefined } = {
  neg: (g) => g.neg(),
  abs: (g, a) => g.mul(a.sign()),
  sign: () => undefined,
  floor: () => undefined,
  ceil: () => undefined,
  round: () => undefined,
  sqrt: (g, _a, y) => g.div(y.mul(2)),
  exp: (g, _a, y) => g.mul(y),
  log: (g, a) => g.div(a),
  sin: (g, a) => g.mul(a.cos()),
  cos: (g, a) => g.mul(a.sin()).neg(),
  tanh: (g, _a, y) => g.mul(constant(1).sub(y.mul(y))),
  erf: (g, a) => g.mul(a.mul(a).neg().exp()).mul(2 / Math.sqrt(Math.PI)),
};

/** [to a, to b]. Where `max` and `min` tie, each side gets half, as in PyTorch. */
const BINARY: {
  readonly [K in BinaryName]: (g: Expr, a: Expr, b: Expr, y: Expr) => readonly [Expr | undefined, Expr | undefined];
} = {
  add: (g) => [g, g],
  sub: (g) => [g, g.neg()],
  mul: (g, a, b) => [g.mul(b), g.mul(a)],
  div: (g, a, b) => [g.div(b), g.mul(a).div(b.mul(b)).neg()],
  // 0⁰: b·a^(b−1) is 0·∞ and log 0 infinite, where PyTorch gives 0.
  pow: (g, a, b, y) => [
    select(b.eq(0), 0, g.mul(b).mul(a.pow(b.sub(1)))),
    select(a.eq(0), select(constant(0).le(b), 0, g.mul(y).mul(a.log())), g.mul(y).mul(a.log())),
  ],
  max: (g, a, b) => [
    select(a.eq(b), g.mul(0.5), select(b.lt(a), g, 0)),
    select(a.eq(b), g.mul(0.5), select(a.lt(b), g, 0)),
  ],
  min: (g, a, b) => [
    select(a.eq(b), g.mul(0.5), select(a.lt(b), g, 0)),
    select(a.eq(b), g.mul(0.5), select(b.lt(a), g, 0)),
  ],
  lt: () => [undefined, undefined],
  le: () => [undefined, undefined],
  eq: () => [undefined, undefined],
  ne: () => [undefined, undefined],
};

/**
 * Reverse-mode derivative of the scalar expression `root`: for each wanted input, the expression of its gradient given
 * the gradient `g` of the result; undefined where none flows. The branch of a `select` that was not taken gives exactly
 * 0, whatever NaN or infinity its derivative would be.
 */
export function gradients(root: Expr, g: Expr, wanted: readonly number[]): (Expr | undefined)[] {
  const found = reverse(root, g);
  return wanted.map((index) => found.get(index));
}

/** The gradient to every input that one flows to, by index. */
function reverse(root: Expr, g: Expr): Map<number, Expr> {
  const found = new Map<number, Expr>();
  const adjoint = new Map<Expr, Expr>([[root, g]]);
  const add = <K>(to: Map<K, Expr>, key: K, value: Expr): void => {
    const before = to.get(key);
    to.set(key, before ? before.add(value) : value);
  };
  const send = (to: Expr, value: Expr | undefined): void => {
    if (value && to.node.kind !== "const" && to.node.kind !== "param") add(adjoint, to, value);
  };
  for (const e of topological(root).reverse()) {
    const at = adjoint.get(e);
    if (!at) continue;
    const node = e.node;
    if (node.kind === "input") add(found, node.index, at);
    else if (node.kind === "unary") send(node.a, UNARY[node.op](at, node.a, e));
    else if (node.kind === "binary") {
      const [a, b] = BINARY[node.op](at, node.a, node.b, e);
      send(node.a, a);
      send(node.b, b);
    } else if (node.kind === "select") {
      // Each branch's gradients are chosen at their ends: a 0 sent into it could meet an infinite derivative.
      for (const [index, value] of reverse(node.a, at)) add(found, index, select(node.test, value, 0));
      for (const [index, value] of reverse(node.b, at)) add(found, index, select(node.test, 0, value));
    }
  }
  return found;
}
