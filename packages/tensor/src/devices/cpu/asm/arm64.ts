/** An assembler for arm64 (A64): each method appends one instruction's word and, when asked to, its line of a listing in GNU syntax. */

import {
  type MemoryEncoding,
  type MemoryName,
  memoryInstructions,
  type VectorEncoding,
  type VectorName,
  vectorInstructions,
} from "./arm64-table.ts";
import { Label } from "./label.ts";

/** The stack pointer as a base of addresses and in additions of constants; the zero register elsewhere. */
export const SP = 31;
const ZERO = 31;

/** Signed comparisons, and `mi`, the comparison "less" of f32 that is false on NaN. */
export const CONDITION = { eq: 0, ne: 1, mi: 4, ge: 10, lt: 11, gt: 12, le: 13 } as const;
export type ConditionName = keyof typeof CONDITION;

/** `[base + disp]` or `[base + (index << shift)]`, as far as one instruction can say it. */
export interface Memory {
  readonly base: number;
  readonly index?: number;
  readonly shift?: number;
  readonly disp?: number;
}

const ARITHMETIC = { add: 0x8b000000, sub: 0xcb000000, cmp: 0xeb00001f } as const;
const LOGIC = { and: 0x8a000000, orr: 0xaa000000, eor: 0xca000000 } as const;
const LOGIC_IMMEDIATE = { and: 0x92000000, orr: 0xb2000000, eor: 0xd2000000 } as const;
export type LogicName = keyof typeof LOGIC;
const SHIFTS = { lsl: 0xd3400000, lsr: 0xd340fc00, asr: 0x9340fc00 } as const;
export type ShiftName = keyof typeof SHIFTS;

const NOP = 0xd503201f;
/** What `prfm` takes in place of a register: into the first-level cache to be kept, or the second. */
export const PLDL1KEEP = 0;
export const PLDL2KEEP = 2;

interface Fixup {
  readonly at: number;
  readonly label: Label;
  /** Where the distance in words goes: 19 bits from bit 5, or 26 from bit 0. */
  readonly bits: 19 | 26;
}

export class Assembler {
  readonly #words: number[] = [];
  readonly #fixups: Fixup[] = [];
  readonly #constants = new Map<string, { label: Label; bytes: Uint8Array }>();
  readonly #lines: string[] | undefined;

  constructor(options: { listing?: boolean } = {}) {
    this.#lines = options.listing ? [] : undefined;
  }

  get position(): number {
    return this.#words.length * 4;
  }

  /** One line an instruction, in the syntax of GNU as; empty unless asked for. */
  get listing(): readonly string[] {
    return this.#lines ?? [];
  }

  comment(text: string): void {
    this.#lines?.push(`// ${text}`);
  }

  bind(label: Label): void {
    label.position = this.position;
    this.#lines?.push(`${label.name}:`);
  }

  align(boundary: number): void {
    while (this.position % boundary) this.#words.push(NOP);
    this.#lines?.push(`.p2align ${Math.log2(boundary)}`);
  }

  /** A place in the constant pool that holds 16 bytes; equal constants share one. */
  constant(bytes: Uint8Array): Label {
    const key = bytes.join();
    let entry = this.#constants.get(key);
    if (!entry) {
      entry = { label: new Label(`constant_${this.#constants.size}`), bytes };
      this.#constants.set(key, entry);
    }
    return entry.label;
  }

  /** The finished code: instructions, then the constant pool, with every label resolved. Position independent. */
  finish(): Uint8Array<ArrayBuffer> {
    const start = this.#constants.size ? Math.ceil(this.position / 16) * 16 : this.position;
    const code = new Uint8Array(start + this.#constants.size * 16);
    let at = start;
    if (this.#constants.size) this.#lines?.push(".balign 16, 0");
    for (const { label, bytes } of this.#constants.values()) {
      this.#lines?.push(`${label.name}:`, `.byte ${bytes.join(", ")}`);
      label.position = at;
      code.set(bytes, at);
      at += 16;
    }
    const view = new DataView(code.buffer);
    this.#words.forEach((word, i) => {
      view.setUint32(i * 4, word, true);
    });
    for (const { at, label, bits } of this.#fixups) {
      if (label.position < 0) throw new Error(`arm64 assembler: label ${label.name} is used but never bound`);
      const distance = (label.position - at) / 4;
      if (Math.abs(distance) >= 2 ** (bits - 1)) throw new RangeError(`arm64 assembler: ${label.name} is out of reach`);
      const field = (distance & (2 ** bits - 1)) << (bits === 19 ? 5 : 0);
      view.setUint32(at, view.getUint32(at, true) | field, true);
    }
    return code;
  }

  // ---- general registers, 64 bits ----

  move(dst: number, src: number): void {
    this.#word(0xaa0003e0 | (src << 16) | dst, `mov x${dst}, x${src}`);
  }

  /** Loads a constant, 16 bits an instruction. */
  moveImmediate(dst: number, value: number): void {
    if (!Number.isSafeInteger(value)) throw new RangeError(`arm64 assembler: ${value} is not an integer immediate`);
    const big = BigInt.asUintN(64, BigInt(value));
    const inverted = value < 0;
    const empty = inverted ? 0xffff : 0;
    const parts = [0n, 16n, 32n, 48n].map((shift) => Number((big >> shift) & 0xffffn));
    const used = [0, 1, 2, 3].filter((i) => parts[i] !== empty);
    if (used.length === 0) used.push(0);
    used.forEach((i, order) => {
      const shift = i ? `, lsl #${16 * i}` : "";
      const kind = order > 0 ? "movk" : inverted ? "movn" : "movz";
      const word = { movk: 0xf2800000, movn: 0x92800000, movz: 0xd2800000 }[kind];
      const part = kind === "movn" ? parts[i] ^ 0xffff : parts[i];
      this.#word(word | (i << 21) | (part << 5) | dst, `${kind} x${dst}, #${part}${shift}`);
    });
  }

  /** `dst = left op (right << shift)`; `cmp` sets the flags and has no result. */
  arithmetic(name: "add" | "sub", dst: number, left: number, right: number, shift = 0): void {
    const text = `${name} x${dst}, x${left}, x${right}${shift ? `, lsl #${shift}` : ""}`;
    this.#word(ARITHMETIC[name] | (right << 16) | (shift << 10) | (left << 5) | dst, text);
  }

  compare(left: number, right: number): void {
    this.#word(ARITHMETIC.cmp | (right << 16) | (left << 5), `cmp x${left}, x${right}`);
  }

  /** Adds a constant of at most 24 bits, in one instruction or two; `dst` and `left` may be the stack pointer. */
  addImmediate(dst: number, left: number, value: number): void {
    const size = Math.abs(value);
    if (size >= 2 ** 24) throw new RangeError(`arm64 assembler: ${value} does not fit an addition`);
    const name = value < 0 ? "sub" : "add";
    const word = value < 0 ? 0xd1000000 : 0x91000000;
    const low = size & 0xfff;
    const high = size >>> 12;
    const to = base(dst);
    if (high) {
      this.#word(
        word | (1 << 22) | (high << 10) | (left << 5) | dst,
        `${name} ${to}, ${base(left)}, #${high}, lsl #12`,
      );
    }
    if (low || !high) {
      const from = high ? dst : left;
      this.#word(word | (low << 10) | (from << 5) | dst, `${name} ${to}, ${base(from)}, #${low}`);
    }
  }

  /** Compares with a constant between −4,095 and 4,095. */
  compareImmediate(left: number, value: number): void {
    const size = Math.abs(value);
    if (size >= 2 ** 12) throw new RangeError(`arm64 assembler: ${value} does not fit a comparison`);
    const word = value < 0 ? 0xb100001f : 0xf100001f;
    this.#word(word | (size << 10) | (left << 5), `${value < 0 ? "cmn" : "cmp"} x${left}, #${size}`);
  }

  logic(name: LogicName, dst: number, left: number, right: number): void {
    this.#word(LOGIC[name] | (right << 16) | (left << 5) | dst, `${name} x${dst}, x${left}, x${right}`);
  }

  /** @returns false, and emits nothing, where the instruction cannot hold the constant */
  logicImmediate(name: LogicName, dst: number, left: number, value: number): boolean {
    const field = bitmask(value);
    if (field === undefined) return false;
    this.#word(LOGIC_IMMEDIATE[name] | (field << 10) | (left << 5) | dst, `${name} x${dst}, x${left}, #${value}`);
    return true;
  }

  /** Shifts by 1 to 63 bits. */
  shiftImmediate(name: ShiftName, dst: number, src: number, count: number): void {
    const fields = name === "lsl" ? ((64 - count) << 16) | ((63 - count) << 10) : count << 16;
    this.#word(SHIFTS[name] | fields | (src << 5) | dst, `${name} x${dst}, x${src}, #${count}`);
  }

  multiply(dst: number, left: number, right: number): void {
    this.#word(0x9b007c00 | (right << 16) | (left << 5) | dst, `mul x${dst}, x${left}, x${right}`);
  }

  negate(dst: number, src: number): void {
    this.#word(0xcb0003e0 | (src << 16) | dst, `neg x${dst}, x${src}`);
  }

  /** Sign-extends the low 32 bits. */
  extend32(dst: number, src: number): void {
    this.#word(0x93407c00 | (src << 5) | dst, `sxtw x${dst}, w${src}`);
  }

  /** `dst = condition ? yes : no` */
  select(condition: ConditionName, dst: number, yes: number, no: number): void {
    const word = 0x9a800000 | (no << 16) | (CONDITION[condition] << 12) | (yes << 5) | dst;
    this.#word(word, `csel x${dst}, x${yes}, x${no}, ${condition}`);
  }

  // ---- control ----

  branch(condition: ConditionName | "always", target: Label): void {
    if (condition === "always") this.#reference(0x14000000, target, 26, `b ${target.name}`);
    else this.#reference(0x54000000 | CONDITION[condition], target, 19, `b.${condition} ${target.name}`);
  }

  /** Jumps where a register of 64 bits (or 32) is zero, or is not. */
  branchZero(zero: boolean, register: number, target: Label, size: 32 | 64 = 64): void {
    const word = (size === 64 ? 0xb4000000 : 0x34000000) | (zero ? 0 : 1 << 24) | register;
    const name = `${size === 64 ? "x" : "w"}${register}`;
    this.#reference(word, target, 19, `${zero ? "cbz" : "cbnz"} ${name}, ${target.name}`);
  }

  ret(): void {
    this.#word(0xd65f03c0, "ret");
  }

  // ---- memory ----

  /** Whether one instruction can reach this place with an access of so many bytes. */
  static reaches({ index, shift = 0, disp = 0 }: Memory, bytes: number): boolean {
    if (index !== undefined) return disp === 0 && (shift === 0 || 1 << shift === bytes);
    return (disp >= -256 && disp < 256) || (disp >= 0 && disp % bytes === 0 && disp / bytes < 4096);
  }

  /** Loads or stores a register; also `prfm`, which takes a kind of prefetch instead. */
  memory(name: MemoryName, register: number, memory: Memory): void {
    const { word, bytes, register: kind }: MemoryEncoding = memoryInstructions[name];
    if (!Assembler.reaches(memory, bytes)) throw new RangeError(`arm64 assembler: ${name} cannot reach its place`);
    const mnemonic = name.split("_")[0];
    const { index, shift = 0, disp = 0 } = memory;
    const from = base(memory.base);
    const what =
      kind === "prefetch"
        ? `pldl${1 + register / 2}keep`
        : register === ZERO && "xw".includes(kind)
          ? `${kind}zr`
          : kind + register;
    const common = word | (memory.base << 5) | register;
    if (index !== undefined) {
      const scaled = shift ? 1 << 12 : 0;
      const text = `${mnemonic} ${what}, [${from}, x${index}${shift ? `, lsl #${shift}` : ""}]`;
      this.#word((common ^ 0x01000000) | 0x00206800 | (index << 16) | scaled, text);
    } else if (disp >= 0 && disp % bytes === 0) {
      this.#word(common | ((disp / bytes) << 10), `${mnemonic} ${what}, [${from}, #${disp}]`);
    } else {
      const unscaled = mnemonic === "prfm" ? "prfum" : `${mnemonic.slice(0, 2)}u${mnemonic.slice(2)}`;
      this.#word((common ^ 0x01000000) | ((disp & 511) << 12), `${unscaled} ${what}, [${from}, #${disp}]`);
    }
  }

  /** Loads a vector from the constant pool. */
  loadConstant(dst: number, label: Label): void {
    this.#reference(0x9c000000 | dst, label, 19, `ldr q${dst}, ${label.name}`);
  }

  /** One element of 1, 2 or 4 bytes between memory and a lane; the address then moves to the next element. */
  lane(name: "ld1" | "st1", register: number, lane: number, bytes: 1 | 2 | 4, address: number): void {
    const load = name === "ld1" ? 1 << 22 : 0;
    const kind = { 1: 0x0d9f0000, 2: 0x0d9f4000, 4: 0x0d9f8000 }[bytes];
    // The lane's number ends at bit 10, 11 or 12; its bits lie in `size`, S and, the highest, Q.
    const place = lane * bytes;
    const word = kind | load | ((place >> 3) << 30) | ((place & 7) << 10) | (address << 5) | register;
    const arrangement = { 1: "b", 2: "h", 4: "s" }[bytes];
    this.#word(word, `${name} {v${register}.${arrangement}}[${lane}], [${base(address)}], #${bytes}`);
  }

  /** 32 bits of memory in all lanes. */
  loadAll(dst: number, address: number): void {
    this.#word(0x4d40c800 | (address << 5) | dst, `ld1r {v${dst}.4s}, [${base(address)}]`);
  }

  loadExclusive(dst: number, address: number): void {
    this.#word(0x885ffc00 | (address << 5) | dst, `ldaxr w${dst}, [${base(address)}]`);
  }

  /** `status` becomes 0 where the store took place. */
  storeExclusive(status: number, src: number, address: number): void {
    const word = 0x8800fc00 | (status << 16) | (address << 5) | src;
    this.#word(word, `stlxr w${status}, w${src}, [${base(address)}]`);
  }

  // ---- vectors ----

  /** One instruction of the table; operands it does not have are left out or 0. */
  vector(name: VectorName, d: number, n: number, m = 0, immediate = 0, a = 0): void {
    const e: VectorEncoding = vectorInstructions[name];
    const fields = e.immediate ? immediateBits(e.immediate, immediate) : 0;
    const word = e.word | fields | (a << 10) | (m << 16) | (n << 5) | d;
    if (!this.#lines) return void this.#words.push(word >>> 0);
    const condition = Object.entries(CONDITION).find(([, code]) => code === immediate)?.[0];
    const values: Record<string, number | string | undefined> = {
      d,
      n,
      m,
      a,
      i: e.immediate === "condition" ? condition : immediate,
    };
    const text = e.text.replace(/\{([dnmai])\}/g, (_, key: string) => String(values[key]));
    this.#word(word, `${name.split("_")[0]} ${text}`);
  }

  vectorMove(dst: number, src: number): void {
    this.#word(0x4ea01c00 | (src << 16) | (src << 5) | dst, `mov v${dst}.16b, v${src}.16b`);
  }

  /** @returns false, and emits nothing, where no instruction has this constant in all lanes of 32 bits */
  moveLanes(dst: number, bits: number): boolean {
    const word = bits >>> 0;
    const immediate = (opcode: number, byte: number, text: string): true => {
      this.#word(opcode | ((byte >> 5) << 16) | ((byte & 31) << 5) | dst, text);
      return true;
    };
    for (const inverted of [false, true]) {
      const value = (inverted ? ~word : word) >>> 0;
      for (let shift = 0; shift < 32; shift += 8) {
        const byte = (value >>> shift) & 255;
        if ((byte << shift) >>> 0 !== value) continue;
        const opcode = (inverted ? 0x6f000400 : 0x4f000400) | ((shift / 4) << 12);
        const text = `${inverted ? "mvni" : "movi"} v${dst}.4s, #${byte}${shift ? `, lsl #${shift}` : ""}`;
        return immediate(opcode, byte, text);
      }
    }
    const byte = word & 255;
    if (word === byte * 0x01010101) return immediate(0x4f00e400, byte, `movi v${dst}.16b, #${byte}`);
    const float = floatImmediate(word);
    if (float === undefined) return false;
    const value = new Float32Array(Uint32Array.of(word).buffer)[0];
    return immediate(0x4f00f400, float, `fmov v${dst}.4s, #${value}`);
  }

  // ---- words ----

  #word(word: number, text: string): void {
    this.#words.push(word >>> 0);
    this.#lines?.push(text);
  }

  #reference(word: number, label: Label, bits: 19 | 26, text: string): void {
    this.#fixups.push({ at: this.position, label, bits });
    this.#word(word, text);
  }
}

const base = (register: number): string => (register === SP ? "sp" : `x${register}`);

function immediateBits(field: NonNullable<VectorEncoding["immediate"]>, value: number): number {
  switch (field) {
    case "left32":
      return (32 + value) << 16;
    case "right32":
      return (64 - value) << 16;
    case "left8":
      return (8 + value) << 16;
    case "right8":
      return (16 - value) << 16;
    case "element32":
      return ((value & 1) << 21) | ((value >> 1) << 11);
    case "byte":
      return value << 11;
    case "condition":
      return value << 12;
  }
}

/** N:immr:imms of a constant that is a run of ones, rotated and repeated; undefined for all others. */
function bitmask(value: number): number | undefined {
  const all = (1n << 64n) - 1n;
  const bits = BigInt.asUintN(64, BigInt(value));
  if (bits === 0n || bits === all) return undefined;
  let size = 64;
  while (size > 2) {
    const half = BigInt(size / 2);
    const mask = (1n << half) - 1n;
    if ((bits & mask) !== ((bits >> half) & mask)) break;
    size /= 2;
  }
  const mask = (1n << BigInt(size)) - 1n;
  const element = bits & mask;
  for (let rotation = 0; rotation < size; rotation++) {
    // Rotated left by `rotation`, a run of ones at the bottom?
    const run = ((element << BigInt(rotation)) | (element >> BigInt(size - rotation))) & mask;
    if ((run & (run + 1n)) !== 0n) continue;
    const ones = run.toString(2).length;
    const imms = (~(2 * size - 1) & 63) | (ones - 1);
    return ((size === 64 ? 1 : 0) << 12) | (rotation << 6) | imms;
  }
  return undefined;
}

/** The 8 bits of a float ±n/16 · 2^r, 16 ≤ n ≤ 31, −3 ≤ r ≤ 4; undefined for all others. */
function floatImmediate(word: number): number | undefined {
  const exponent = (word >>> 25) & 63;
  if (word & 0x7ffff || (exponent !== 0b100000 && exponent !== 0b011111)) return undefined;
  return ((word >>> 24) & 128) | ((word >>> 19) & 127);
}
