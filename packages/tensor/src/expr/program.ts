import { Expr, input, param, topological } from "./expr.ts";
import { gradients } from "./gradient.ts";

/** An expression ready to run: how many tensors and numbers it takes, and a key under which compiled code is cached. */
export class Program {
  readonly root: Expr;
  readonly inputs: number;
  readonly params: number;
  /** Equal for equal programs, whatever built them. */
  readonly key: string;

  private constructor(root: Expr, inputs: number, params: number) {
    this.root = root;
    this.inputs = inputs;
    this.params = params;
    this.key = `${root.id}:${inputs}:${params}`;
  }

  static #made = new Map<string, Program>();

  /**
   * @param inputs number of input tensors; `body` gets one expression for each
   * @param params number of numbers given at each call
   */
  static of(inputs: number, params: number, body: (x: Expr[], p: Expr[]) => Expr): Program {
    const root = body(
      Array.from({ length: inputs }, (_, i) => input(i)),
      Array.from({ length: params }, (_, i) => param(i)),
    );
    return Program.from(root, inputs, params);
  }

  static from(root: Expr, inputs: number, params: number): Program {
    const key = `${root.id}:${inputs}:${params}`;
    let program = Program.#made.get(key);
    if (!program) {
      program = new Program(root, inputs, params);
      Program.#made.set(key, program);
    }
    return program;
  }

  #gradients = new Map<number, Gradient | undefined>();

  /** The program that gives the gradient to input `index` from the result's gradient and the inputs it needs. */
  gradient(index: number): Gradient | undefined {
    if (!this.#gradients.has(index)) this.#gradients.set(index, this.#derive(index));
    return this.#gradients.get(index);
  }

  #derive(index: number): Gradient | undefined {
    const g = input(this.inputs);
    const [root] = gradients(this.root, g, [index]);
    if (!root) return undefined;
    const needs = topological(root)
      .flatMap((e) => (e.node.kind === "input" && e.node.index !== this.inputs ? [e.node.index] : []))
      .sort((a, b) => a - b);
    const place = new Map([[this.inputs, 0], ...needs.map((at, i) => [at, i + 1] as const)]);
    return { program: Program.from(renumber(root, place), needs.length + 1, this.params), needs };
  }
}

/** See {@link Program.gradient}: the program takes the result's gradient first, then the inputs named by `needs`. */
export interface Gradient {
  readonly program: Program;
  readonly needs: readonly number[];
}

function renumber(root: Expr, place: ReadonlyMap<number, number>): Expr {
  const done = new Map<Expr, Expr>();
  for (const e of topological(root)) {
    const node = e.node;
    const at = (old: Expr): Expr => done.get(old)!;
    if (node.kind === "input") done.set(e, input(place.get(node.index)!));
    else if (node.kind === "unary") done.set(e, Expr.of({ ...node, a: at(node.a) }));
    else if (node.kind === "binary") done.set(e, Expr.of({ ...node, a: at(node.a), b: at(node.b) }));
    else if (node.kind === "select") {
      done.set(e, Expr.of({ ...node, test: at(node.test), a: at(node.a), b: at(node.b) }));
    } else done.set(e, e);
  }
  return done.get(root)!;
}

/** `x` itself: copies, casts and strided accumulation. */
export const IDENTITY = Program.of(1, 0, ([x]) => x);
/** A number everywhere. */
export const FILL = Program.of(0, 1, (_x, [value]) => value);
