/** An assembler for x86-64: each method appends one instruction's bytes and, when asked to, its line of a listing in Intel syntax. */

import { Label } from "./label.ts";
import { type EvexEncoding, type EvexName, evexInstructions } from "./x64-evex-table.ts";
import { type Encoding, instructions, type OperandClass, type VexName } from "./x64-table.ts";

/** General registers by their encoding. */
export const GPR = {
  rax: 0,
  rcx: 1,
  rdx: 2,
  rbx: 3,
  rsp: 4,
  rbp: 5,
  rsi: 6,
  rdi: 7,
  r8: 8,
  r9: 9,
  r10: 10,
  r11: 11,
  r12: 12,
  r13: 13,
  r14: 14,
  r15: 15,
} as const;

/** `[base + index·scale + disp]`, or with `label` `[rip + label + disp]`. */
export interface Memory {
  readonly base?: number;
  readonly index?: number;
  readonly scale?: 1 | 2 | 4 | 8;
  readonly disp?: number;
  readonly label?: Label;
  /** One 32-bit element stands for all lanes (EVEX alone). */
  readonly broadcast?: boolean;
}

export type Operand = number | Memory;

/** Condition codes of Jcc and CMOVcc: signed comparisons, and `b`/`ae` for the unsigned and carry ones. */
export const CONDITION = { b: 2, ae: 3, e: 4, ne: 5, l: 12, ge: 13, le: 14, g: 15 } as const;
export type ConditionName = keyof typeof CONDITION;

/** The two-operand arithmetic group: opcode extension of the immediate form; the register forms are 8·digit + 1 and + 3. */
export const ARITHMETIC = { add: 0, or: 1, and: 4, sub: 5, xor: 6, cmp: 7 } as const;
export type ArithmeticName = keyof typeof ARITHMETIC;

export const SHIFT = { shl: 4, shr: 5, sar: 7 } as const;
export type ShiftName = keyof typeof SHIFT;

const NAMES_64 = Object.keys(GPR);
const NAMES_32 = NAMES_64.map((name) => (/\d/.test(name) ? `${name}d` : name.replace("r", "e")));
const POINTER_NAMES: Record<number, string> = {
  1: "BYTE PTR ",
  2: "WORD PTR ",
  4: "DWORD PTR ",
  8: "QWORD PTR ",
  16: "XMMWORD PTR ",
  32: "YMMWORD PTR ",
  64: "ZMMWORD PTR ",
};

const MASK_LOGIC = { kandw: 0x41, kandnw: 0x42, korw: 0x45, kxorw: 0x47 } as const;

/** Intel's recommended multi-byte NOPs, by length. */
const NOPS = [
  [],
  [0x90],
  [0x66, 0x90],
  [0x0f, 0x1f, 0x00],
  [0x0f, 0x1f, 0x40, 0x00],
  [0x0f, 0x1f, 0x44, 0x00, 0x00],
  [0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00],
  [0x0f, 0x1f, 0x80, 0x00, 0x00, 0x00, 0x00],
  [0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00],
];

interface Fixup {
  readonly at: number;
  readonly label: Label;
  /** Bytes between the displacement's end and the instruction's end. */
  readonly trailing: number;
  readonly addend: number;
}

const isMemory = (operand: Operand): operand is Memory => typeof operand !== "number";
const fitsByte = (value: number): boolean => value >= -128 && value <= 127;

export class Assembler {
  readonly #bytes: number[] = [];
  readonly #fixups: Fixup[] = [];
  readonly #constants = new Map<string, { label: Label; bytes: Uint8Array }>();
  readonly #lines: string[] | undefined;

  constructor(options: { listing?: boolean } = {}) {
    this.#lines = options.listing ? [] : undefined;
  }

  get position(): number {
    return this.#bytes.length;
  }

  /** One line an instruction, in Intel syntax that GNU as accepts; empty unless asked for. */
  get listing(): readonly string[] {
    return this.#lines ?? [];
  }

  comment(text: string): void {
    this.#lines?.push(`# ${text}`);
  }

  bind(label: Label): void {
    label.position = this.position;
    this.#lines?.push(`${label.name}:`);
  }

  align(boundary: number): void {
    let missing = -this.position & (boundary - 1);
    while (missing > 0) {
      const size = Math.min(missing, NOPS.length - 1);
      this.#bytes.push(...NOPS[size]);
      this.#lines?.push(`.byte ${NOPS[size].join(", ")} # nop`);
      missing -= size;
    }
  }

  /** A place in the constant pool that holds `bytes`; equal constants share one. */
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
    for (const { label, bytes } of this.#constants.values()) {
      while (this.position % 32) this.#bytes.push(0);
      label.position = this.position;
      this.#bytes.push(...bytes);
      this.#lines?.push(".balign 32, 0", `${label.name}: .byte ${bytes.join(", ")}`);
    }
    const code = new Uint8Array(this.#bytes);
    const view = new DataView(code.buffer);
    for (const { at, label, trailing, addend } of this.#fixups) {
      if (label.position < 0) throw new Error(`x64 assembler: label ${label.name} is used but never bound`);
      view.setInt32(at, label.position + addend - (at + 4 + trailing), true);
    }
    return code;
  }

  // ---- general registers (64 bits unless `size` says 32) ----

  move(dst: number, src: number, size: 32 | 64 = 64): void {
    this.#line("mov", this.#reg(dst, size), this.#reg(src, size));
    this.#legacy(size, [0x89], src, dst);
  }

  /** Loads a constant in the shortest form. */
  moveImmediate(dst: number, value: number): void {
    if (!Number.isSafeInteger(value)) throw new RangeError(`x64 assembler: ${value} is not an integer immediate`);
    if (value >= 0 && value <= 0xffffffff) {
      this.#line("mov", NAMES_32[dst], value);
      if (dst > 7) this.#bytes.push(0x41);
      this.#bytes.push(0xb8 | (dst & 7));
      this.#int32(value);
    } else if (value >= -0x80000000 && value < 0) {
      this.#line("mov", NAMES_64[dst], value);
      this.#legacy(64, [0xc7], 0, dst);
      this.#int32(value);
    } else {
      this.#line("movabs", NAMES_64[dst], value);
      this.#bytes.push(0x48 | (dst > 7 ? 1 : 0), 0xb8 | (dst & 7));
      const big = BigInt.asUintN(64, BigInt(value));
      this.#int32(Number(big & 0xffffffffn));
      this.#int32(Number(big >> 32n));
    }
  }

  /** Loads `bytes` bytes; narrower values are extended to the register, 4 bytes by sign when `signed`. */
  load(dst: number, src: Memory, bytes: 1 | 2 | 4 | 8, signed = true): void {
    const memory = this.#memoryText(src, bytes);
    if (bytes === 8 || (bytes === 4 && !signed)) {
      this.#line("mov", this.#reg(dst, bytes === 8 ? 64 : 32), memory);
      this.#legacy(bytes === 8 ? 64 : 32, [0x8b], dst, src);
    } else if (bytes === 4) {
      this.#line("movsxd", NAMES_64[dst], memory);
      this.#legacy(64, [0x63], dst, src);
    } else {
      this.#line(signed ? "movsx" : "movzx", this.#reg(dst, signed ? 64 : 32), memory);
      this.#legacy(signed ? 64 : 32, [0x0f, (signed ? 0xbe : 0xb6) + (bytes === 2 ? 1 : 0)], dst, src);
    }
  }

  store(dst: Memory, src: number, bytes: 1 | 2 | 4 | 8): void {
    const names = bytes === 8 ? NAMES_64 : NAMES_32;
    const name =
      bytes >= 4 ? names[src] : bytes === 2 ? NAMES_64[src].replace(/^r(?=[a-z])/, "") : byteRegisterName(src);
    this.#line("mov", this.#memoryText(dst, bytes), src > 7 && bytes === 2 ? `${NAMES_64[src]}w` : name);
    if (bytes === 2) this.#bytes.push(0x66);
    this.#legacy(bytes === 8 ? 64 : 32, [bytes === 1 ? 0x88 : 0x89], src, dst, 0, bytes === 1);
  }

  /** Exchanges 32 bits of memory and register; the processor makes it atomic. */
  exchange(memory: Memory, register: number): void {
    this.#line("xchg", this.#memoryText(memory, 4), NAMES_32[register]);
    this.#legacy(32, [0x87], register, memory);
  }

  lea(dst: number, src: Memory): void {
    this.#line("lea", NAMES_64[dst], this.#memoryText(src, 0));
    this.#legacy(64, [0x8d], dst, src);
  }

  arithmetic(name: ArithmeticName, dst: number, src: Operand, size: 32 | 64 = 64): void {
    const digit = ARITHMETIC[name];
    if (isMemory(src)) {
      this.#line(name, this.#reg(dst, size), this.#memoryText(src, size / 8));
      this.#legacy(size, [digit * 8 + 3], dst, src);
    } else {
      this.#line(name, this.#reg(dst, size), this.#reg(src, size));
      this.#legacy(size, [digit * 8 + 1], src, dst);
    }
  }

  arithmeticImmediate(name: ArithmeticName, dst: number, value: number, size: 32 | 64 = 64): void {
    this.#line(name, this.#reg(dst, size), value);
    const digit = ARITHMETIC[name];
    if (fitsByte(value)) {
      this.#legacy(size, [0x83], digit, dst);
      this.#bytes.push(value & 0xff);
    } else {
      if (value < -0x80000000 || value > 0x7fffffff) {
        throw new RangeError(`x64 assembler: ${name} with ${value}, which does not fit 32 bits`);
      }
      if (dst === GPR.rax) {
        if (size === 64) this.#bytes.push(0x48);
        this.#bytes.push(digit * 8 + 5);
      } else this.#legacy(size, [0x81], digit, dst);
      this.#int32(value);
    }
  }

  multiply(dst: number, src: Operand, size: 32 | 64 = 64): void {
    this.#line("imul", this.#reg(dst, size), isMemory(src) ? this.#memoryText(src, size / 8) : this.#reg(src, size));
    this.#legacy(size, [0x0f, 0xaf], dst, src);
  }

  multiplyImmediate(dst: number, src: number, value: number, size: 32 | 64 = 64): void {
    this.#line("imul", this.#reg(dst, size), this.#reg(src, size), value);
    this.#legacy(size, [fitsByte(value) ? 0x6b : 0x69], dst, src);
    if (fitsByte(value)) this.#bytes.push(value & 0xff);
    else this.#int32(value);
  }

  shiftImmediate(name: ShiftName, dst: number, count: number, size: 32 | 64 = 64): void {
    this.#line(name, this.#reg(dst, size), count);
    this.#legacy(size, [count === 1 ? 0xd1 : 0xc1], SHIFT[name], dst);
    if (count !== 1) this.#bytes.push(count);
  }

  negate(dst: number, size: 32 | 64 = 64): void {
    this.#line("neg", this.#reg(dst, size));
    this.#legacy(size, [0xf7], 3, dst);
  }

  /** Sign-extends the low 32 bits. */
  extend32(dst: number, src: number): void {
    this.#line("movsxd", NAMES_64[dst], NAMES_32[src]);
    this.#legacy(64, [0x63], dst, src);
  }

  conditionalMove(condition: ConditionName, dst: number, src: number, size: 32 | 64 = 64): void {
    this.#line(`cmov${condition}`, this.#reg(dst, size), this.#reg(src, size));
    this.#legacy(size, [0x0f, 0x40 + CONDITION[condition]], dst, src);
  }

  /** Backward jumps take the short form where it reaches; forward ones are always long, their distance being unknown. */
  jump(condition: ConditionName | "always", target: Label): void {
    const size = target.position < 0 ? "{disp32} " : "";
    this.#line(`${size}${condition === "always" ? "jmp" : `j${condition}`}`, target.name);
    const distance = target.position - (this.position + 2);
    if (target.position >= 0 && fitsByte(distance)) {
      this.#bytes.push(condition === "always" ? 0xeb : 0x70 + CONDITION[condition], distance & 0xff);
      return;
    }
    if (condition === "always") this.#bytes.push(0xe9);
    else this.#bytes.push(0x0f, 0x80 + CONDITION[condition]);
    this.#fixup(target, 0, 0);
  }

  push(register: number): void {
    this.#line("push", NAMES_64[register]);
    if (register > 7) this.#bytes.push(0x41);
    this.#bytes.push(0x50 | (register & 7));
  }

  pop(register: number): void {
    this.#line("pop", NAMES_64[register]);
    if (register > 7) this.#bytes.push(0x41);
    this.#bytes.push(0x58 | (register & 7));
  }

  ret(): void {
    this.#line("ret");
    this.#bytes.push(0xc3);
  }

  vzeroupper(): void {
    this.#line("vzeroupper");
    this.#bytes.push(0xc5, 0xf8, 0x77);
  }

  /** Hints that a line is needed soon: into all levels (`t0`), the second (`t1`), or past the caches (`nta`). */
  prefetch(kind: "nta" | "t0" | "t1", src: Memory): void {
    this.#line(`prefetch${kind}`, this.#memoryText(src, 1));
    this.#legacy(32, [0x0f, 0x18], { nta: 0, t0: 1, t1: 2 }[kind], src);
  }

  // ---- vectors ----

  /**
   * One VEX instruction. `length`: vector bits (ignored by scalar instructions). Operands in Intel order, destination
   * first; where a store form has a name of its own (`vmovups_store`) the memory operand comes first.
   */
  vex(name: VexName, length: number, operands: readonly Operand[], immediate?: number): void {
    const e: Encoding = instructions[name];
    const bits = e.lengths[0] === 0 ? 0 : length;
    if (!e.lengths.includes(bits)) throw new RangeError(`x64 assembler: ${name} has no ${length}-bit form`);
    this.#vexLine(name, e, bits, operands, immediate);
    let reg = e.digit ?? 0;
    let vvvv = 0;
    let rm: Operand = 0;
    let last = -1;
    for (let i = 0; i < operands.length; i++) {
      const place = e.form[i];
      const operand = operands[i];
      if (place === "m") rm = operand;
      else if (isMemory(operand)) throw new TypeError(`x64 assembler: ${name} takes no memory as operand ${i}`);
      else if (place === "r") reg = operand;
      else if (place === "v") vvvv = operand;
      else last = operand;
    }
    if (e.only && (e.only === "mem") !== isMemory(rm)) throw new TypeError(`x64 assembler: ${name} needs ${e.only}`);
    let opcode = e.opcode;
    if ((name === "vmovaps" || name === "vmovups") && !isMemory(rm) && rm > 7 && reg < 8) {
      [reg, rm] = [rm, reg];
      opcode++;
    }
    const trailing = last >= 0 || immediate !== undefined ? 1 : 0;
    const r = reg > 7 ? 0 : 0x80;
    const x = isMemory(rm) && (rm.index ?? 0) > 7 ? 0 : 0x40;
    const b = (isMemory(rm) ? (rm.base ?? 0) : rm) > 7 ? 0 : 0x20;
    const tail = ((~vvvv & 15) << 3) | (bits === 256 ? 4 : 0) | e.pp;
    if (x && b && !e.w && e.map === 1) this.#bytes.push(0xc5, r | tail, opcode);
    else this.#bytes.push(0xc4, r | x | b | e.map, (e.w << 7) | tail, opcode);
    this.#modrm(reg, rm, trailing);
    if (last >= 0) this.#bytes.push(last << 4);
    else if (immediate !== undefined) this.#bytes.push(immediate & 0xff);
  }

  /**
   * One EVEX instruction; lengths and operands as in `vex`, vector registers up to 31. `mask`: the mask register that says
   * which lanes take part (0: all); `zero`: the others become 0 instead of staying.
   */
  evex(
    name: EvexName,
    length: number,
    operands: readonly Operand[],
    options: { mask?: number; zero?: boolean; immediate?: number } = {},
  ): void {
    const e: EvexEncoding = evexInstructions[name];
    const { mask = 0, zero = false, immediate } = options;
    const bits = e.lengths[0] === 0 ? 0 : length;
    if (!e.lengths.includes(bits)) throw new RangeError(`x64 assembler: EVEX ${name} has no ${length}-bit form`);
    let reg = e.digit ?? 0;
    let vvvv = 0;
    let rm: Operand = 0;
    operands.forEach((operand, i) => {
      const place = e.form[i];
      if (place === "m") rm = operand;
      else if (isMemory(operand)) throw new TypeError(`x64 assembler: ${name} takes no memory as operand ${i}`);
      else if (place === "r") reg = operand;
      else vvvv = operand;
    });
    const memory: Memory | undefined = isMemory(rm) ? rm : undefined;
    if (e.only && (e.only === "mem") !== (memory !== undefined)) {
      throw new TypeError(`x64 assembler: ${name} needs ${e.only}`);
    }
    if (memory?.broadcast && !e.broadcast) throw new TypeError(`x64 assembler: ${name} broadcasts no memory`);
    this.#evexLine(name, e, bits, operands, options);
    const number = rm as number;
    const x = memory ? (memory.index ?? 0) > 7 : (number & 16) !== 0;
    const b = memory ? (memory.base ?? 0) > 7 : (number & 8) !== 0;
    const shape = bits === 512 ? 2 : bits === 256 ? 1 : 0;
    this.#bytes.push(
      0x62,
      (reg & 8 ? 0 : 0x80) | (x ? 0 : 0x40) | (b ? 0 : 0x20) | (reg & 16 ? 0 : 0x10) | e.map,
      (e.w << 7) | ((~vvvv & 15) << 3) | 4 | e.pp,
      (zero ? 0x80 : 0) | (shape << 5) | (memory?.broadcast ? 0x10 : 0) | (vvvv & 16 ? 0 : 8) | mask,
      e.opcode,
    );
    const unit = memory?.broadcast ? 4 : tupleBytes(e, bits);
    this.#modrm(reg, rm, immediate === undefined ? 0 : 1, unit);
    if (immediate !== undefined) this.#bytes.push(immediate & 0xff);
  }

  /** Between mask registers, or a mask and a general register: `kmovw`, `kandw` and their like. */
  maskMove(to: "mask" | "general", dst: number, src: number): void {
    this.#line("kmovw", to === "mask" ? `k${dst}` : NAMES_32[dst], to === "mask" ? NAMES_32[src] : `k${src}`);
    const [r, b] = [dst > 7 ? 0 : 0x80, src > 7 ? 0 : 0x20];
    if (b) this.#bytes.push(0xc5, r | 0x78);
    else this.#bytes.push(0xc4, r | 0x40 | b | 1, 0x78);
    this.#bytes.push(to === "mask" ? 0x92 : 0x93, 0xc0 | ((dst & 7) << 3) | (src & 7));
  }

  maskLogic(name: keyof typeof MASK_LOGIC, dst: number, a: number, b: number): void {
    this.#line(name, `k${dst}`, `k${a}`, `k${b}`);
    this.#bytes.push(0xc5, 0x80 | ((~a & 15) << 3) | 4, MASK_LOGIC[name], 0xc0 | (dst << 3) | b);
  }

  /** Copies a mask. */
  maskCopy(dst: number, src: number): void {
    this.#line("kmovw", `k${dst}`, `k${src}`);
    this.#bytes.push(0xc5, 0xf8, 0x90, 0xc0 | (dst << 3) | src);
  }

  /** Takes the shapes of the AMX tiles from 64 bytes of memory. */
  loadTileConfiguration(from: Memory): void {
    this.#line("ldtilecfg", this.#memoryText(from, 0));
    this.#tile(0, 0x49, 0, from, 0);
  }

  releaseTiles(): void {
    this.#line("tilerelease");
    this.#bytes.push(0xc4, 0xe2, 0x78, 0x49, 0xc0);
  }

  zeroTile(tile: number): void {
    this.#line("tilezero", `tmm${tile}`);
    this.#tile(3, 0x49, tile, 0, 0);
  }

  /** Rows lie at base, base + index, base + 2·index, …: the memory operand's index is the stride. */
  loadTile(tile: number, from: Memory): void {
    this.#line("tileloadd", `tmm${tile}`, this.#memoryText(from, 0));
    this.#tile(3, 0x4b, tile, from, 0);
  }

  /** The same for what is read once: the first-level cache need not keep it. */
  streamTile(tile: number, from: Memory): void {
    this.#line("tileloaddt1", `tmm${tile}`, this.#memoryText(from, 0));
    this.#tile(1, 0x4b, tile, from, 0);
  }

  storeTile(to: Memory, tile: number): void {
    this.#line("tilestored", this.#memoryText(to, 0), `tmm${tile}`);
    this.#tile(2, 0x4b, tile, to, 0);
  }

  /** sum += a·b of bf16 pairs. */
  multiplyTiles(sum: number, a: number, b: number): void {
    this.#line("tdpbf16ps", `tmm${sum}`, `tmm${a}`, `tmm${b}`);
    this.#tile(2, 0x5c, sum, a, b);
  }

  #tile(pp: number, opcode: number, reg: number, rm: Operand, vvvv: number): void {
    const x = isMemory(rm) && (rm.index ?? 0) > 7 ? 0 : 0x40;
    const b = isMemory(rm) && (rm.base ?? 0) > 7 ? 0 : 0x20;
    this.#bytes.push(0xc4, 0x80 | x | b | 2, ((~vvvv & 15) << 3) | pp, opcode);
    this.#modrm(reg, rm, 0);
  }

  #evexLine(
    name: string,
    e: EvexEncoding,
    bits: number,
    operands: readonly Operand[],
    { mask = 0, zero = false, immediate }: { mask?: number; zero?: boolean; immediate?: number },
  ): void {
    if (!this.#lines) return;
    const text = operands.map((operand, i) => {
      if (isMemory(operand)) {
        const bytes = operand.broadcast ? 4 : tupleBytes(e, bits);
        return this.#memoryText(operand, bytes) + (operand.broadcast ? `{1to${bits / 32}}` : "");
      }
      const kind = e.classes[i];
      if (kind === "k") return `k${operand}`;
      if (kind === "g") return NAMES_32[operand];
      const width = kind === "o" ? 128 : kind === "h" ? bits / 2 : kind === "r" ? bits / 4 : bits;
      return `${width === 512 ? "z" : width === 256 ? "y" : "x"}mm${operand}`;
    });
    if (mask) text[0] += `{k${mask}}${zero ? "{z}" : ""}`;
    if (immediate !== undefined) text.push(String(immediate));
    this.#line(`{evex} ${name.replace("_store", "")}`, ...text);
  }

  #vexLine(name: string, e: Encoding, bits: number, operands: readonly Operand[], immediate?: number): void {
    if (!this.#lines) return;
    const text = operands.map((operand, i) => {
      const kind = e.classes[i] as OperandClass;
      const width = kind === "g" ? 4 : kind === "q" ? 8 : kind === "o" ? 16 : (kind === "h" ? bits / 2 : bits) / 8;
      if (isMemory(operand)) return this.#memoryText(operand, e.memory ?? 0);
      if (kind === "g" || kind === "q") return this.#reg(operand, kind === "g" ? 32 : 64);
      return `${width > 16 ? "ymm" : "xmm"}${operand}`;
    });
    if (immediate !== undefined) text.push(String(immediate));
    this.#line(name.replace("_store", ""), ...text);
  }

  #line(name: string, ...operands: (string | number)[]): void {
    this.#lines?.push(operands.length ? `${name} ${operands.join(", ")}` : name);
  }

  #reg(register: number, size: number): string {
    return (size === 64 ? NAMES_64 : NAMES_32)[register];
  }

  #memoryText(memory: Memory, bytes: number): string {
    if (!this.#lines) return "";
    const prefix = POINTER_NAMES[bytes] ?? "";
    const disp = memory.disp ?? 0;
    if (memory.label) return `${prefix}[rip + ${memory.label.name}${disp ? ` + ${disp}` : ""}]`;
    const parts = memory.base === undefined ? [] : [NAMES_64[memory.base]];
    if (memory.index !== undefined) parts.push(`${NAMES_64[memory.index]}*${memory.scale ?? 1}`);
    if (disp) parts.push(String(disp));
    return `${prefix}[${parts.join(" + ")}]`;
  }

  #int32(value: number): void {
    this.#bytes.push(value & 0xff, (value >> 8) & 0xff, (value >> 16) & 0xff, (value >> 24) & 0xff);
  }

  #fixup(label: Label, trailing: number, addend: number): void {
    this.#fixups.push({ at: this.position, label, trailing, addend });
    this.#int32(0);
  }

  /** REX prefix, opcode, ModRM. `trailing`: bytes of immediate that follow. */
  #legacy(size: number, opcode: number[], reg: number, rm: Operand, trailing = 0, byteRegister = false): void {
    const x = isMemory(rm) ? (rm.index ?? 0) : 0;
    const b = isMemory(rm) ? (rm.base ?? 0) : rm;
    const rex = (size === 64 ? 8 : 0) | (reg > 7 ? 4 : 0) | (x > 7 ? 2 : 0) | (b > 7 ? 1 : 0);
    if (rex || (byteRegister && reg > 3)) this.#bytes.push(0x40 | rex);
    this.#bytes.push(...opcode);
    this.#modrm(reg, rm, trailing);
  }

  /** `unit`: what a short displacement counts in; 1 but for EVEX. */
  #modrm(reg: number, rm: Operand, trailing: number, unit = 1): void {
    const r = (reg & 7) << 3;
    if (!isMemory(rm)) {
      this.#bytes.push(0xc0 | r | (rm & 7));
      return;
    }
    const disp = rm.disp ?? 0;
    if (rm.label) {
      this.#bytes.push(r | 5);
      this.#fixup(rm.label, trailing, disp);
      return;
    }
    if (rm.base === undefined) throw new TypeError("x64 assembler: a memory operand needs a base register");
    if (rm.index === GPR.rsp) throw new TypeError("x64 assembler: rsp cannot be an index");
    const base = rm.base & 7;
    const needsDisp = disp !== 0 || base === 5;
    const short = disp / unit;
    const mod = !needsDisp ? 0 : Number.isInteger(short) && fitsByte(short) ? 0x40 : 0x80;
    if (rm.index !== undefined || base === 4) {
      this.#bytes.push(mod | r | 4);
      const index = rm.index === undefined ? 4 : rm.index & 7;
      this.#bytes.push((Math.log2(rm.scale ?? 1) << 6) | (index << 3) | base);
    } else this.#bytes.push(mod | r | base);
    if (mod === 0x40) this.#bytes.push(short & 0xff);
    else if (mod === 0x80) this.#int32(disp);
  }
}

function tupleBytes({ tuple }: EvexEncoding, bits: number): number {
  if (typeof tuple === "number") return tuple;
  return bits / { full: 8, half: 16, quarter: 32 }[tuple];
}

function byteRegisterName(register: number): string {
  if (register > 7) return `${NAMES_64[register]}b`;
  return ["al", "cl", "dl", "bl", "spl", "bpl", "sil", "dil"][register];
}
