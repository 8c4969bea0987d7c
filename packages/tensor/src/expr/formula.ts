import { type BinaryName, type Expr, topological } from "./expr.ts";
import type { Program } from "./program.ts";

const INFIX: { readonly [K in BinaryName]?: string } = {
  ...{ add: "+", sub: "-", mul: "*", div: "/", lt: "<", le: "<=", eq: "==", ne: "!=" },
};

/** A program as people write it, for tables and messages: inputs are x0, x1, … and numbers p0, p1, … */
export function formula({ root }: Program): string {
  const inner = (e: Expr): string => {
    const { node } = e;
    if (node.kind === "input") return `x${node.index}`;
    if (node.kind === "param") return `p${node.index}`;
    if (node.kind === "const") return `${Number(node.value.toPrecision(4))}`;
    if (node.kind === "unary") return `${node.op}(${inner(node.a)})`;
    if (node.kind === "select") return `select(${inner(node.test)}, ${inner(node.a)}, ${inner(node.b)})`;
    const sign = INFIX[node.op];
    return sign ? `(${inner(node.a)} ${sign} ${inner(node.b)})` : `${node.op}(${inner(node.a)}, ${inner(node.b)})`;
  };
  return inner(root).replace(/^\((.*)\)$/, "$1");
}

/** Arithmetic operations that an element of the result costs; common parts are computed once. */
export function operations({ root }: Program): number {
  return topological(root).filter(({ node }) => !["input", "param", "const"].includes(node.kind)).length;
}
