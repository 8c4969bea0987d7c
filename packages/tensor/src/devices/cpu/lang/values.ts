/** The values a kernel computes with: thin typed handles whose methods append instructions to the kernel being built. */

import type { Builder } from "./builder.ts";
import {
  type Address,
  type Comparison,
  type Condition,
  ELEMENT_BYTES,
  type Element,
  type Op,
  type Operand,
  type Reg,
  type Type,
} from "./ir.ts";

export class Value {
  readonly k: Builder;
  readonly operand: Operand;
  readonly mutable: boolean;
  constructor(k: Builder, operand: Operand, mutable = false) {
    this.k = k;
    this.operand = operand;
    this.mutable = mutable;
  }

  get type(): Type {
    return this.operand.type;
  }

  /** The register that holds the value; a constant is put into one. */
  get reg(): Reg {
    return this.operand.kind === "reg" ? this.operand : this.k.constant(this.operand);
  }

  /** The value as it is now: of a variable, a copy. */
  protected get unchanging(): Operand {
    return this.mutable ? this.k.result("move", this.type, [this.operand]) : this.operand;
  }

  protected assign(value: Value): void {
    this.k.assign(this.#target(), value.operand);
  }

  protected update(op: Op, args: readonly Operand[]): void {
    this.k.emit({ kind: "op", op, dst: this.#target(), args: [...args] });
  }

  #target(): Reg {
    if (!this.mutable || this.operand.kind !== "reg") throw new TypeError("only a variable can be assigned to");
    return this.operand;
  }
}

type IndexLike = Index | number;

/** A signed integer of an address' width. */
export class Index extends Value {
  #binary(op: Op, other: IndexLike): Index {
    return new Index(this.k, this.k.result(op, "index", [this.reg, this.k.integer(other)]));
  }

  add(other: IndexLike): Index {
    return other === 0 ? this : this.#binary("add", other);
  }
  sub(other: IndexLike): Index {
    return this.#binary("sub", other);
  }
  mul(other: IndexLike): Index {
    if (typeof other === "number" && other > 0 && Number.isInteger(Math.log2(other))) return this.shl(Math.log2(other));
    return this.#binary("mul", other);
  }
  and(other: IndexLike): Index {
    return this.#binary("and", other);
  }
  shl(bits: number): Index {
    return bits === 0 ? this : this.#binary("shl", bits);
  }
  /** Divides by 2^bits, towards minus infinity. */
  sar(bits: number): Index {
    return bits === 0 ? this : this.#binary("sar", bits);
  }
  min(other: IndexLike): Index {
    return this.#binary("min", other);
  }
  max(other: IndexLike): Index {
    return this.#binary("max", other);
  }
  /** The nearest multiple of a power of two at or below. */
  alignDown(multiple: number): Index {
    return this.and(-multiple);
  }
  toF32(): F32 {
    return new F32(this.k, this.k.result("convert", "f32", [this.reg]));
  }
  /** The low 32 bits in all lanes. */
  splat(): VI {
    return new VI(this.k, this.k.result("splat", "vi", [this.reg]));
  }

  compare(comparison: Comparison, other: IndexLike): Condition {
    return { comparison, left: this.reg, right: this.k.integer(other) };
  }
  lt(other: IndexLike): Condition {
    return this.compare("lt", other);
  }
  le(other: IndexLike): Condition {
    return this.compare("le", other);
  }
  gt(other: IndexLike): Condition {
    return this.compare("gt", other);
  }
  ge(other: IndexLike): Condition {
    return this.compare("ge", other);
  }
  eq(other: IndexLike): Condition {
    return this.compare("eq", other);
  }
  ne(other: IndexLike): Condition {
    return this.compare("ne", other);
  }

  set(value: IndexLike): void {
    if (typeof value === "number") this.k.assign(this.reg, { kind: "immediate", type: "index", value });
    else this.assign(value);
  }
  increase(by: IndexLike): void {
    this.update("add", [this.reg, this.k.integer(by)]);
  }
  decrease(by: IndexLike): void {
    this.update("sub", [this.reg, this.k.integer(by)]);
  }
}

/** An address of elements of one kind. Offsets count elements, and cost nothing where the target's addressing has them. */
export class Pointer {
  readonly k: Builder;
  readonly element: Element;
  readonly address: Address;
  readonly mutable: boolean;
  constructor(k: Builder, element: Element, address: Address, mutable = false) {
    this.k = k;
    this.element = element;
    this.address = address;
    this.mutable = mutable;
  }

  get bytes(): 1 | 2 | 4 | 8 {
    return ELEMENT_BYTES[this.element];
  }

  /** The place `offset` elements on. */
  at(offset: IndexLike): Pointer {
    const { address } = this;
    if (typeof offset === "number") {
      return new Pointer(this.k, this.element, { ...address, disp: address.disp + offset * this.bytes });
    }
    const base = address.index ? this.value().reg : address.base;
    const disp = address.index ? 0 : address.disp;
    return new Pointer(this.k, this.element, { base, index: offset.reg, scale: this.bytes, disp });
  }

  /** The place `offset` bytes on. */
  atByte(offset: IndexLike): Pointer {
    return this.as("u8").at(offset).as(this.element);
  }

  /** The place `scale · stride` bytes on, without an addition where the target's addressing has it. */
  atStride(stride: Index, scale: 1 | 2 | 4 | 8): Pointer {
    const { base, index, disp } = this.address;
    if (index) throw new TypeError("the address has an index already");
    return new Pointer(this.k, this.element, { base, index: stride.reg, scale, disp });
  }

  as(element: Element): Pointer {
    return new Pointer(this.k, element, this.address);
  }

  /** The address as a number in one register. */
  value(): Index {
    const { base, index, scale, disp } = this.address;
    let value = new Index(this.k, base);
    if (index) value = value.add(new Index(this.k, index).mul(scale));
    return value.add(disp);
  }

  /** A pointer of the same place that lies in one register. */
  fixed(): Pointer {
    return this.k.pointer(this.value(), this.element);
  }

  /** Moves a pointer variable. */
  advance(offset: IndexLike): void {
    const by = typeof offset === "number" ? offset * this.bytes : offset.mul(this.bytes);
    this.advanceBytes(by);
  }
  advanceBytes(bytes: IndexLike): void {
    this.#variable();
    const { base } = this.address;
    this.k.emit({ kind: "op", op: "add", dst: base, args: [base, this.k.integer(bytes)] });
  }
  set(place: Pointer): void {
    this.#variable();
    this.k.assign(this.address.base, place.value().reg);
  }
  #variable(): void {
    if (!this.mutable) throw new TypeError("only a pointer variable can be moved");
  }

  loadIndex(): Index {
    return new Index(this.k, this.#load("index"));
  }
  loadF32(): F32 {
    return new F32(this.k, this.#load("f32"));
  }
  /** A vector of elements as f32; with `count` only so many lanes are read, the others are 0. */
  load(count?: Index): VF {
    return new VF(this.k, this.#load("vf", count));
  }
  loadInt(count?: Index): VI {
    return new VI(this.k, this.#load("vi", count));
  }
  /** Four elements into 128-bit block `block` of a vector, the others as in `others` (0 where that is missing). */
  loadBlock(block: number, others?: VF, count?: Index): VF {
    const { k, address, element } = this;
    const dst = k.register("vf");
    const args = others ? [others.reg] : [];
    k.emit({ kind: "op", op: "loadBlock", dst, args, imm: block, address, element, count: count?.reg });
    return new VF(k, dst);
  }
  /** One i32 in all lanes. */
  broadcastInt(): VI {
    return this.#loadBytes("broadcast");
  }
  /** 128 bits in every 128-bit block. */
  broadcastBlock(): VI {
    return this.#loadBytes("broadcastBlock");
  }
  /** 16 bytes as 32 numbers of 4 bits, one a byte: low halves, then high halves; vector `part` of them. */
  nibbles(part: number): VI {
    return this.#loadBytes("nibbles", part);
  }
  #loadBytes(op: Op, imm?: number): VI {
    const { k, address, element } = this;
    const dst = k.register("vi");
    k.emit({ kind: "op", op, dst, args: [], imm, address, element });
    return new VI(k, dst);
  }
  /** One element in all lanes. */
  broadcast(): VF {
    const dst = this.k.register("vf");
    this.k.emit({ kind: "op", op: "broadcast", dst, args: [], address: this.address, element: this.element });
    return new VF(this.k, dst);
  }
  store(value: Value, count?: Index): void {
    const { element } = this;
    if (value instanceof VF && element !== "f32") throw new TypeError(`f32 values are stored as f32, not ${element}`);
    if (value instanceof VI && this.bytes !== 4 && this.bytes !== 2)
      throw new TypeError(`no store of i32 as ${element}`);
    this.k.emit({
      kind: "op",
      op: "store",
      args: [value.reg],
      address: this.address,
      element: this.element,
      count: count?.reg,
    });
  }
  /** Stores an integer of 32 bits and gives what was there, in one indivisible step. */
  exchange(value: Index): Index {
    const dst = this.k.register("index");
    this.k.emit({ kind: "op", op: "exchange", dst, args: [value.reg], address: this.address, element: "i32" });
    return new Index(this.k, dst);
  }
  /** Hints that the place is needed soon: into the cache of that level. Any address may be given. */
  prefetch(level: 1 | 2 = 2): void {
    this.k.emit({ kind: "op", op: "prefetch", args: [], imm: level, address: this.address });
  }

  #load(type: Type, count?: Index): Reg {
    const dst = this.k.register(type);
    const { address, element } = this;
    this.k.emit({ kind: "op", op: "load", dst, args: [], address, element, count: count?.reg });
    return dst;
  }
}

/** One f32. */
export class F32 extends Value {
  #binary(op: Op, other: F32 | number): F32 {
    return new F32(this.k, this.k.result(op, "f32", [this.reg, this.k.float(other).reg]));
  }
  add(other: F32 | number): F32 {
    return this.#binary("add", other);
  }
  sub(other: F32 | number): F32 {
    return this.#binary("sub", other);
  }
  mul(other: F32 | number): F32 {
    return this.#binary("mul", other);
  }
  div(other: F32 | number): F32 {
    return this.#binary("div", other);
  }
  max(other: F32 | number): F32 {
    return this.#binary("max", other);
  }
  min(other: F32 | number): F32 {
    return this.#binary("min", other);
  }
  sqrt(): F32 {
    return new F32(this.k, this.k.result("sqrt", "f32", [this.reg]));
  }
  /** All lanes of a vector. */
  splat(): VF {
    return new VF(this.k, this.k.result("splat", "vf", [this.reg]));
  }
  set(value: F32): void {
    this.assign(value);
  }
}

export type VFLike = VF | number;

/** A vector of f32. */
export class VF extends Value {
  #binary(op: Op, other: VFLike): VF {
    return new VF(this.k, this.k.result(op, "vf", [this.reg, this.k.vector(other).operand]));
  }
  add(other: VFLike): VF {
    return this.#binary("add", other);
  }
  sub(other: VFLike): VF {
    return this.#binary("sub", other);
  }
  mul(other: VFLike): VF {
    return this.#binary("mul", other);
  }
  div(other: VFLike): VF {
    return this.#binary("div", other);
  }
  /** `this < other ? this : other` */
  min(other: VFLike): VF {
    return this.#binary("min", other);
  }
  /** `this > other ? this : other` */
  max(other: VFLike): VF {
    return this.#binary("max", other);
  }
  /** As bf16, one a lane or with another vector's after it: subnormal numbers as 0. On targets with tiles. */
  narrow(next?: VF): VI {
    return new VI(this.k, this.k.result("narrow", "vi", next ? [this.reg, next.reg] : [this.reg]));
  }
  /** `this·factor + addend` */
  fma(factor: VFLike, addend: VFLike): VF {
    const { k } = this;
    return new VF(k, k.result("fma", "vf", [this.reg, k.vector(factor).operand, k.vector(addend).operand]));
  }
  /** `addend − this·factor` */
  fnma(factor: VFLike, addend: VFLike): VF {
    const { k } = this;
    return new VF(k, k.result("fnma", "vf", [this.reg, k.vector(factor).operand, k.vector(addend).operand]));
  }
  sqrt(): VF {
    return new VF(this.k, this.k.result("sqrt", "vf", [this.reg]));
  }
  neg(): VF {
    return this.bits().xor(-0x80000000).float();
  }
  abs(): VF {
    return this.bits().and(0x7fffffff).float();
  }
  round(): VF {
    return new VF(this.k, this.k.result("round", "vf", [this.reg]));
  }
  floor(): VF {
    return new VF(this.k, this.k.result("floor", "vf", [this.reg]));
  }
  toInt(): VI {
    return new VI(this.k, this.k.result("convert", "vi", [this.reg]));
  }
  /** The same bits as integers. */
  bits(): VI {
    return new VI(this.k, this.unchanging);
  }
  compare(comparison: Comparison, other: VFLike): VB {
    return this.k.compare("vf", comparison, this.reg, this.k.vector(other).operand);
  }
  /** Lane 0. */
  first(): F32 {
    return new F32(this.k, this.k.result("first", "f32", [this.reg]));
  }
  /** The sum of all lanes. */
  sum(): F32 {
    return new F32(this.k, this.k.result("reduce", "f32", [this.reg], 0));
  }
  /** The greatest lane. */
  maximum(): F32 {
    return new F32(this.k, this.k.result("reduce", "f32", [this.reg], 1));
  }
  set(value: VF): void {
    this.assign(value);
  }
  /** Adds the product of two values to a variable. */
  addProduct(a: VF, b: VF): void {
    this.update("fma", [a.reg, b.reg, this.reg]);
  }
}

export type VILike = VI | number;

/** A vector of i32; arithmetic wraps. */
export class VI extends Value {
  #binary(op: Op, other: VILike): VI {
    return new VI(this.k, this.k.result(op, "vi", [this.reg, this.k.vectorInt(other).operand]));
  }
  add(other: VILike): VI {
    return this.#binary("add", other);
  }
  sub(other: VILike): VI {
    return this.#binary("sub", other);
  }
  mul(other: VILike): VI {
    return this.#binary("mul", other);
  }
  and(other: VILike): VI {
    return this.#binary("and", other);
  }
  or(other: VILike): VI {
    return this.#binary("or", other);
  }
  xor(other: VILike): VI {
    return this.#binary("xor", other);
  }
  #shift(op: Op, bits: number): VI {
    return new VI(this.k, this.k.result(op, "vi", [this.reg, { kind: "immediate", type: "index", value: bits }]));
  }
  shl(bits: number): VI {
    return this.#shift("shl", bits);
  }
  shr(bits: number): VI {
    return this.#shift("shr", bits);
  }
  sar(bits: number): VI {
    return this.#shift("sar", bits);
  }
  /** Bytes inside each 128-bit block, picked by those of `order`: 0 to 15, or 128 for a 0. */
  shuffleBytes(order: VI): VI {
    return new VI(this.k, this.k.result("shuffleBytes", "vi", [this.reg, order.operand]));
  }
  /** All ones in bytes that are equal. */
  equalBytes(other: VI): VI {
    return new VI(this.k, this.k.result("equalBytes", "vi", [this.reg, other.operand]));
  }
  /** The lowest bytes, one a lane. */
  widenBytes(signed = false): VI {
    return new VI(this.k, this.k.result("widenBytes", "vi", [this.reg], signed ? 1 : 0));
  }
  /** With three more vectors, as signed bytes in order, held within their range. */
  packBytes(b: VI, c: VI, d: VI): VI {
    return new VI(this.k, this.k.result("packBytes", "vi", [this.reg, b.reg, c.reg, d.reg]));
  }
  /**
   * Products of bytes summed into the lanes, in whatever order: only the sum of all lanes is the same on every target.
   * These bytes are 0 to 127, or any with `signed`; the others −127 to 127.
   */
  dot(other: VI, signed = false): VI {
    return new VI(this.k, this.k.result("dot", "vi", [this.reg, other.reg], signed ? 1 : 0));
  }
  /** Unsigned products of the even lanes: their low halves in the even lanes, their high halves in the odd ones. */
  mulWide(other: VI): VI {
    return new VI(this.k, this.k.result("mulWide", "vi", [this.reg, other.reg]));
  }
  /** Every odd lane in place of itself and of the even lane before it. */
  oddLanes(): VI {
    return new VI(this.k, this.k.result("oddLanes", "vi", [this.reg]));
  }
  toFloat(): VF {
    return new VF(this.k, this.k.result("convert", "vf", [this.reg]));
  }
  /** The same bits as f32. */
  float(): VF {
    return new VF(this.k, this.unchanging);
  }
  compare(comparison: "eq" | "gt", other: VILike): VB {
    return this.k.compare("vi", comparison, this.reg, this.k.vectorInt(other).operand);
  }
}

/** One truth value a lane. */
export class VB extends Value {
  #binary(op: Op, other: VB): VB {
    return new VB(this.k, this.k.result(op, "vb", [this.reg, other.reg]));
  }
  and(other: VB): VB {
    return this.#binary("and", other);
  }
  or(other: VB): VB {
    return this.#binary("or", other);
  }
  select(yes: VF, no: VF): VF {
    return new VF(this.k, this.k.result("select", "vf", [this.reg, yes.reg, no.reg]));
  }
}
