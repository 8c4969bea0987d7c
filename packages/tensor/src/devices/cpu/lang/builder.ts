/** Builds one kernel: holds the code so far and offers constants, variables, loops and branches. */

import type {
  Comparison,
  Condition,
  Element,
  Immediate,
  Instruction,
  KernelCode,
  Node,
  Op,
  Operand,
  Reg,
  Type,
} from "./ir.ts";
import type { Target } from "./target.ts";
import { F32, Index, Pointer, type Value, VB, VF, type VFLike, VI, type VILike } from "./values.ts";

export class Builder {
  readonly target: Target;
  /** f32 lanes of a vector. */
  readonly lanes: number;
  readonly #name: string;
  readonly #registers: Reg[] = [];
  readonly #body: Node[] = [];
  readonly #parameters: readonly [Reg, Reg, Reg];
  #block: Node[] = this.#body;

  constructor(name: string, target: Target) {
    this.#name = name;
    this.target = target;
    this.lanes = target.lanes;
    this.#parameters = [this.register("index"), this.register("index"), this.register("index")];
  }

  finish(): KernelCode {
    return {
      name: this.#name,
      target: this.target,
      body: this.#body,
      parameters: this.#parameters,
      registers: this.#registers,
    };
  }

  // ---- what the value classes build on ----

  register(type: Type): Reg {
    const reg: Reg = { kind: "reg", id: this.#registers.length, type };
    this.#registers.push(reg);
    return reg;
  }

  emit(instruction: Instruction): void {
    this.#block.push(instruction);
  }

  result(op: Op, type: Type, args: Operand[], imm?: number): Reg {
    const dst = this.register(type);
    this.emit({ kind: "op", op, dst, args, imm });
    return dst;
  }

  compare(type: "vf" | "vi", comparison: Comparison, left: Reg, right: Operand): VB {
    const dst = this.register("vb");
    this.emit({ kind: "op", op: "compare", dst, args: [left, right], comparison, imm: type === "vf" ? 0 : 1 });
    return new VB(this, dst);
  }

  constant(value: Immediate): Reg;
  constant(type: Type, value: number): Reg;
  constant(given: Type | Immediate, value = 0): Reg {
    const immediate: Immediate = typeof given === "string" ? { kind: "immediate", type: given, value } : given;
    return this.result("const", immediate.type, [immediate]);
  }

  assign(dst: Reg, value: Operand): void {
    this.emit({ kind: "op", op: value.kind === "reg" ? "move" : "const", dst, args: [value] });
  }

  integer(value: Index | number): Operand {
    return typeof value === "number" ? { kind: "immediate", type: "index", value } : value.operand;
  }

  // ---- for kernels ----

  /** The first item this call shall do. */
  get begin(): Index {
    return new Index(this, this.#parameters[1]);
  }

  /** The item after the last one this call shall do. */
  get end(): Index {
    return new Index(this, this.#parameters[2]);
  }

  comment(text: string): void {
    this.#block.push({ kind: "comment", text });
  }

  /** An integer constant in a register. */
  index(value: Index | number): Index {
    return typeof value === "number" ? new Index(this, this.constant("index", value)) : value;
  }

  float(value: F32 | number): F32 {
    return typeof value === "number" ? new F32(this, this.constant("f32", value)) : value;
  }

  /** A vector with the value in all lanes; it takes no register where the target reads constants from memory. */
  vector(value: VFLike): VF {
    if (typeof value !== "number") return value;
    const operand: Immediate = { kind: "immediate", type: "vf", value };
    return new VF(this, operand);
  }

  vectorInt(value: VILike): VI {
    if (typeof value !== "number") return value;
    return new VI(this, { kind: "immediate", type: "vi", value });
  }

  /** `start`, `start + 1`, … by lane. */
  laneNumbers(start = 0): VI {
    return new VI(this, this.result("lanes", "vi", [], start));
  }

  /** A vector of bytes, each given by its place. */
  bytes(at: (i: number) => number): VI {
    const bytes = Array.from({ length: 4 * this.lanes }, (_, i) => at(i) & 255);
    return new VI(this, { kind: "immediate", type: "vi", value: 0, bytes });
  }

  zero(): VF {
    return new VF(this, this.constant("vf", 0));
  }

  pointer(address: Index, element: Element): Pointer {
    return new Pointer(this, element, { base: address.reg, scale: 1, disp: 0 });
  }

  /** A copy that may be assigned to. */
  variable(initial: Index): Index;
  variable(initial: F32): F32;
  variable(initial: VF): VF;
  variable(initial: VI): VI;
  variable(initial: Pointer): Pointer;
  variable(initial: Value | Pointer): Value | Pointer {
    if (initial instanceof Pointer) {
      const base = this.result("move", "index", [initial.value().reg]);
      return new Pointer(this, initial.element, { base, scale: 1, disp: 0 }, true);
    }
    const reg = this.register(initial.type);
    this.assign(reg, initial.operand);
    if (initial instanceof Index) return new Index(this, reg, true);
    if (initial instanceof F32) return new F32(this, reg, true);
    if (initial instanceof VF) return new VF(this, reg, true);
    return new VI(this, reg, true);
  }

  if(condition: Condition, yes: () => void, no?: () => void): void {
    const node: Node = { kind: "if", condition, yes: [], no: [] };
    this.#within(node.yes, yes);
    if (no) this.#within(node.no, no);
    this.#block.push(node);
  }

  /** Runs the body for `from`, `from + step`, … below `to`; not at all when there is none. */
  loop(
    range: { from?: Index | number; to: Index | number; step?: Index | number; maySpill?: boolean },
    body: (i: Index) => void,
  ): void {
    const i = this.variable(this.index(range.from ?? 0));
    const to = this.integer(range.to);
    const condition: Condition = { comparison: "lt", left: i.reg, right: to };
    this.if(condition, () =>
      this.doWhile(() => {
        body(i);
        i.increase(range.step ?? 1);
        return condition;
      }, range.maySpill),
    );
  }

  /** Runs the body `count` times, which may be 0 or less. */
  repeat(count: Index, body: () => void): void {
    this.if(count.gt(0), () => {
      const left = this.variable(count);
      this.doWhile(() => {
        body();
        left.decrease(1);
        return left.ne(0);
      });
    });
  }

  /** Runs the body, which gives the condition for another round. */
  doWhile(body: () => Condition, maySpill = false): void {
    const nodes: Node[] = [];
    let condition: Condition | undefined;
    this.#within(nodes, () => {
      condition = body();
    });
    this.#block.push({ kind: "loop", body: nodes, condition: condition!, maySpill });
  }

  /**
   * Covers `n` elements by vectors: the body is built for whole vectors and once more for the rest, whose `count` it
   * passes to loads and stores.
   */
  vectors(n: Index, body: (i: Index, count?: Index) => void): void {
    const whole = n.alignDown(this.lanes);
    this.loop({ to: whole, step: this.lanes }, (i) => body(i));
    const rest = n.sub(whole);
    this.if(rest.gt(0), () => body(whole, rest));
  }

  argument(offset: number, type: "index" | "f32"): Index | F32 {
    const dst = this.register(type);
    const element: Element = type === "f32" ? "f32" : "i64";
    this.emit({
      kind: "op",
      op: "load",
      dst,
      args: [],
      address: { base: this.#parameters[0], scale: 1, disp: offset },
      element,
    });
    return type === "f32" ? new F32(this, dst) : new Index(this, dst);
  }

  #within(nodes: Node[], build: () => void): void {
    const outer = this.#block;
    this.#block = nodes;
    build();
    this.#block = outer;
  }
}
