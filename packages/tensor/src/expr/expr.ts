/**
 * Scalar expressions: one declaration of an elementwise operation, from which its gradient, the reference loop, vector
 * code and GPU source are derived. Nodes are immutable and shared: the same subexpression is one object, computed once.
 */
export type UnaryName =
  | "neg"
  | "abs"
  | "sign"
  | "floor"
  | "ceil"
  | "round"
  | "sqrt"
  | "exp"
  | "log"
  | "sin"
  | "cos"
  | "tanh"
  | "erf";

/** Comparisons give 1 or 0 (0 where an operand is NaN, except `ne`). `max`, `min` give NaN where either is NaN. */
export type BinaryName = "add" | "sub" | "mul" | "div" | "pow" | "max" | "min" | "lt" | "le" | "eq" | "ne";

type Operand = Expr | number;

export type ExprNode =
  | { readonly kind: "input"; readonly index: number }
  | { readonly kind: "param"; readonly index: number }
  | { readonly kind: "const"; readonly value: number }
  | { readonly kind: "unary"; readonly op: UnaryName; readonly a: Expr }
  | { readonly kind: "binary"; readonly op: BinaryName; readonly a: Expr; readonly b: Expr }
  | { readonly kind: "select"; readonly test: Expr; readonly a: Expr; readonly b: Expr };

const interned = new Map<string, Expr>();
let nextId = 0;

/** One value of the expression; methods build larger ones. */
export class Expr {
  readonly node: ExprNode;
  readonly id: number;

  private constructor(node: ExprNode) {
    this.node = node;
    this.id = nextId++;
  }

  static of(node: ExprNode): Expr {
    const key = keyOf(node);
    let found = interned.get(key);
    if (!found) {
      found = new Expr(node);
      interned.set(key, found);
    }
    return found;
  }

  add(b: Operand): Expr {
    const e = lift(b);
    if (isConst(e, 0)) return this;
    if (isConst(this, 0)) return e;
    return binary("add", this, e);
  }
  sub(b: Operand): Expr {
    const e = lift(b);
    return isConst(e, 0) ? this : binary("sub", this, e);
  }
  /** Multiplication by a literal 0 stays: 0·NaN is NaN. */
  mul(b: Operand): Expr {
    const e = lift(b);
    if (isConst(e, 1)) return this;
    if (isConst(this, 1)) return e;
    return binary("mul", this, e);
  }
  div(b: Operand): Expr {
    const e = lift(b);
    return isConst(e, 1) ? this : binary("div", this, e);
  }
  pow(b: Operand): Expr {
    return binary("pow", this, lift(b));
  }
  max(b: Operand): Expr {
    return binary("max", this, lift(b));
  }
  min(b: Operand): Expr {
    return binary("min", this, lift(b));
  }
  lt(b: Operand): Expr {
    return binary("lt", this, lift(b));
  }
  le(b: Operand): Expr {
    return binary("le", this, lift(b));
  }
  eq(b: Operand): Expr {
    return binary("eq", this, lift(b));
  }
  ne(b: Operand): Expr {
    return binary("ne", this, lift(b));
  }
  neg(): Expr {
    return unary("neg", this);
  }
  abs(): Expr {
    return unary("abs", this);
  }
  /** −1, 0 or 1; NaN for NaN. */
  sign(): Expr {
    return unary("sign", this);
  }
  floor(): Expr {
    return unary("floor", this);
  }
  ceil(): Expr {
    return unary("ceil", this);
  }
  /** To the nearest whole number, ties to even, as PyTorch's `round`. */
  round(): Expr {
    return unary("round", this);
  }
  sqrt(): Expr {
    return unary("sqrt", this);
  }
  exp(): Expr {
    return unary("exp", this);
  }
  log(): Expr {
    return unary("log", this);
  }
  sin(): Expr {
    return unary("sin", this);
  }
  cos(): Expr {
    return unary("cos", this);
  }
  tanh(): Expr {
    return unary("tanh", this);
  }
  erf(): Expr {
    return unary("erf", this);
  }
}

function keyOf(node: ExprNode): string {
  switch (node.kind) {
    case "input":
      return `x${node.index}`;
    case "param":
      return `p${node.index}`;
    case "const":
      return Object.is(node.value, -0) ? "-0" : `${node.value}`;
    case "unary":
      return `${node.op}(${node.a.id})`;
    case "binary":
      return `${node.op}(${node.a.id},${node.b.id})`;
    case "select":
      return `select(${node.test.id},${node.a.id},${node.b.id})`;
  }
}

function isConst(e: Expr, value: number): boolean {
  return e.node.kind === "const" && Object.is(e.node.value, value);
}

function unary(op: UnaryName, a: Expr): Expr {
  return Expr.of({ kind: "unary", op, a });
}

function binary(op: BinaryName, a: Expr, b: Expr): Expr {
  return Expr.of({ kind: "binary", op, a, b });
}

function lift(value: Operand): Expr {
  return typeof value === "number" ? constant(value) : value;
}

/** A number fixed in the program's text. */
export function constant(value: number): Expr {
  return Expr.of({ kind: "const", value });
}

/** The program's input tensor number `index`. */
export function input(index: number): Expr {
  return Expr.of({ kind: "input", index });
}

/** A number given at each call (a learning rate, an exponent), so that the compiled program is reused. */
export function param(index: number): Expr {
  return Expr.of({ kind: "param", index });
}

/** `a` where `test` is not 0, else `b`; the branch not taken may be NaN or infinite. */
export function select(test: Expr, a: Operand, b: Operand): Expr {
  return Expr.of({ kind: "select", test, a: lift(a), b: lift(b) });
}

/** 1/(1+e⁻ˣ), with no overflow where x is very negative: e⁻ˣ becomes infinite and the quotient 0. */
export function sigmoid(x: Expr): Expr {
  return constant(1).div(x.neg().exp().add(1));
}

/** The expression's nodes, operands before their users, each once. */
export function topological(root: Expr): Expr[] {
  const order: Expr[] = [];
  const seen = new Set<Expr>();
  const visit = (e: Expr): void => {
    if (seen.has(e)) return;
    seen.add(e);
    for (const operand of operandsOf(e)) visit(operand);
    order.push(e);
  };
  visit(root);
  return order;
}

/** The direct operands of a node. */
export function operandsOf(e: Expr): readonly Expr[] {
  switch (e.node.kind) {
    case "unary":
      return [e.node.a];
    case "binary":
      return [e.node.a, e.node.b];
    case "select":
      return [e.node.test, e.node.a, e.node.b];
    default:
      return [];
  }
}
