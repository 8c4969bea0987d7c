/**
 * The intermediate form of a kernel: structured code over typed virtual registers. A register is defined before it is
 * used and may be assigned again, so there are no phi nodes; loops and branches nest, so every emitter can walk it in
 * one pass and WebAssembly can take it as it is.
 */

import type { Target } from "./target.ts";

/**
 * `index`: a signed integer as wide as an address (also every pointer). `f32`: one number. `vi`: a vector of f32 or of i32 lanes, as many as the target has. `vb`: one truth value a lane.
 */
export type Type = "index" | "f32" | "vf" | "vi" | "vb";

/** How a value lies in memory; narrower than 32 bits it is widened on the way in. */
export type Element = "f32" | "bf16" | "f16" | "i32" | "i16" | "u16" | "i8" | "u8" | "i64";

export const ELEMENT_BYTES: { readonly [E in Element]: 1 | 2 | 4 | 8 } = {
  f32: 4,
  bf16: 2,
  f16: 2,
  i32: 4,
  i16: 2,
  u16: 2,
  i8: 1,
  u8: 1,
  i64: 8,
};

export interface Reg {
  readonly kind: "reg";
  readonly id: number;
  readonly type: Type;
}

/** An immediate: an integer for `index`, or a constant that fills all lanes of a vector. */
export interface Immediate {
  readonly kind: "immediate";
  readonly type: Type;
  readonly value: number;
  /** Of a `vi`, instead of `value`: every byte of the vector, from the lowest. */
  readonly bytes?: readonly number[];
}

export type Operand = Reg | Immediate;

/** Byte address `base + index·scale + disp`. */
export interface Address {
  readonly base: Reg;
  readonly index?: Reg;
  readonly scale: 1 | 2 | 4 | 8;
  readonly disp: number;
}

export type Comparison = "lt" | "le" | "eq" | "ne" | "gt" | "ge";

export type Op =
  | "const"
  | "move"
  | "add"
  | "sub"
  | "mul"
  | "div"
  /** `a < b ? a : b`; the second operand where either is NaN. */
  | "min"
  /** `a > b ? a : b`; the second operand where either is NaN. */
  | "max"
  | "and"
  | "or"
  | "xor"
  /** `~a & b` */
  | "andnot"
  | "shl"
  | "shr"
  | "sar"
  | "neg"
  | "sqrt"
  /** `a·b + c`, rounded once where the target can. */
  | "fma"
  /** `c − a·b`, rounded once where the target can. */
  | "fnma"
  /** To the nearest integer, ties to even. */
  | "round"
  | "floor"
  /** Lane by lane, of f32 (`imm` 0) or i32 (1); `comparison` says which. NaN makes all false but `ne`. */
  | "compare"
  /** `args[0] ? args[1] : args[2]`, lane by lane. */
  | "select"
  /** A value of another number type; f32 to integer rounds to nearest, ties to even. */
  | "convert"
  | "splat"
  /** The lanes' numbers plus `imm`. */
  | "lanes"
  /** Lane 0. */
  | "first"
  | "load"
  /** Four elements into 128-bit block `imm` of a vector; the others as in `args[0]`, or 0 where that is missing. */
  | "loadBlock"
  | "store"
  /** One element of memory in all lanes. */
  | "broadcast"
  /** Interleaves the low or high half of each 128-bit block: `imm` 0 lo32, 1 hi32, 2 lo64, 3 hi64. */
  | "unpack"
  /** All lanes into one f32: `imm` 0 sum, 1 maximum. The order of the sum is fixed by the number of lanes. */
  | "reduce"
  /** 128 bits of memory in every 128-bit block. */
  | "broadcastBlock"
  /** 16 bytes of memory as 32 numbers of 4 bits, one a byte: the low halves, then the high halves. `imm`: which vector of them. */
  | "nibbles"
  /** Bytes inside each 128-bit block of `args[0]` picked by those of `args[1]`: 0 to 15, or 128 for a 0. */
  | "shuffleBytes"
  /** Byte by byte: all ones where equal. */
  | "equalBytes"
  /** The lowest bytes, as many as there are lanes, as i32: `imm` 0 without sign, 1 with. */
  | "widenBytes"
  /** Four vectors of i32 to one of signed bytes, in order, held within their range. */
  | "packBytes"
  /**
   * Sums of products of bytes into i32 lanes; which four products go to which lane differs by target, their total does
   * not. `args[0]` is 0 to 127 (`imm` 0) or −128 to 127 (1), `args[1]` −127 to 127.
   */
  | "dot"
  /** Unsigned products of the even lanes of two `vi`: the low halves into the even lanes, the high halves into the odd ones. */
  | "mulWide"
  /**
   * The lanes of two `vf` as bf16, one after another in a `vi` of twice as many: rounded to nearest even, subnormal numbers
   * as 0; those of one `vf` as u16 of 32 bits each. On targets with tiles.
   */
  | "narrow"
  /** Every odd lane in place of itself and of the even lane before it. */
  | "oddLanes"
  /** Asks for a line of memory to be brought into the cache of level `imm`, 1 or 2. */
  | "prefetch"
  /**
   * Matrix tiles of 16 rows of 64 bytes (AMX), numbered 0 to 7 by the kernel itself: `imm` is the tile; in `tileLoad`,
   * `tileStream` (a load of what the first-level cache need not keep) and `tileStore` the address' index is the bytes from
   * row to row; `tileMultiply` adds to tile `imm & 7` the product of
   * tiles `imm >> 3 & 7` (rows of bf16) and `imm >> 6` (pairs of rows of bf16).
   */
  | "tileBegin"
  | "tileEnd"
  | "tileZero"
  | "tileLoad"
  | "tileStream"
  | "tileStore"
  | "tileMultiply"
  /** Stores an integer of 32 bits and gives what was there, atomically. */
  | "exchange";

export interface Instruction {
  readonly kind: "op";
  op: Op;
  dst?: Reg;
  args: Operand[];
  imm?: number;
  comparison?: Comparison;
  address?: Address;
  element?: Element;
  /** Of a vector load or store: how many lanes take part (the rest reads as 0); absent, all. May be below 0 or above the lanes. */
  count?: Reg;
}

/** A comparison of two signed integers. */
export interface Condition {
  readonly comparison: Comparison;
  readonly left: Reg;
  readonly right: Operand;
}

/** `do body while (condition)`. */
export interface Loop {
  readonly kind: "loop";
  readonly body: Node[];
  condition: Condition;
  /** Where spilled registers inside are accepted although no loop lies within. */
  readonly maySpill: boolean;
}

export interface If {
  readonly kind: "if";
  condition: Condition;
  readonly yes: Node[];
  readonly no: Node[];
}

export interface Comment {
  readonly kind: "comment";
  readonly text: string;
}

export type Node = Instruction | Loop | If | Comment;

export interface KernelCode {
  readonly name: string;
  readonly target: Target;
  readonly body: Node[];
  /** What the machine function takes: the address of the argument block, the first item and the end of the items. */
  readonly parameters: readonly [args: Reg, begin: Reg, end: Reg];
  readonly registers: readonly Reg[];
}

export const negate: { readonly [C in Comparison]: Comparison } = {
  lt: "ge",
  le: "gt",
  eq: "ne",
  ne: "eq",
  gt: "le",
  ge: "lt",
};

/** The registers an instruction reads. */
export function reads(instruction: Instruction): Reg[] {
  const found: Reg[] = [];
  for (const arg of instruction.args) if (arg.kind === "reg") found.push(arg);
  if (instruction.address) {
    found.push(instruction.address.base);
    if (instruction.address.index) found.push(instruction.address.index);
  }
  if (instruction.count) found.push(instruction.count);
  return found;
}

export function conditionReads(condition: Condition): Reg[] {
  return condition.right.kind === "reg" ? [condition.left, condition.right] : [condition.left];
}
