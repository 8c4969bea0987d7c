/** Lowers a kernel to arm64 machine code with NEON (Advanced SIMD), as every processor of the architecture has it. */

import { Assembler, CONDITION, type ConditionName, type Memory, PLDL1KEEP, PLDL2KEEP, SP } from "../asm/arm64.ts";
import type { MemoryName, VectorName } from "../asm/arm64-table.ts";
import type { Label } from "../asm/label.ts";
import type {
  Address,
  Comparison,
  Condition,
  Element,
  Immediate,
  Instruction,
  KernelCode,
  Op,
  Operand,
  Reg,
  Type,
} from "../lang/ir.ts";
import { ELEMENT_BYTES } from "../lang/ir.ts";
import { RegisterPressureError } from "./allocate.ts";
import { factors, legalize } from "./arm64-legalize.ts";
import { removeMoves } from "./prepare.ts";
import { isGeneral, type MachineCode, RegisterEmitter, SCRATCH } from "./register-emitter.ts";

/** AAPCS64: x16 and x17 are free between instructions, x18 is the platform's, x29 and x30 frame and return address. */
const ADDRESS = 16;
const CONSTANT = 17;
const range = (from: number, to: number): number[] => Array.from({ length: to - from + 1 }, (_, i) => from + i);
const SAVED = range(19, 28);
/** Their lower halves belong to the caller. */
const SAVED_VECTORS = range(8, 15);
const REGISTERS = {
  general: [...range(0, 15), ...SAVED],
  vectors: [...range(0, 7), ...range(16, 31), ...SAVED_VECTORS],
  parameters: [0, 1, 2],
};

const LANES = 4;
const CONDITIONS: { readonly [C in Comparison]: ConditionName } = {
  lt: "lt",
  le: "le",
  eq: "eq",
  ne: "ne",
  gt: "gt",
  ge: "ge",
};
const BINARY: { readonly [T in Exclude<Type, "index">]: Partial<Record<Op, VectorName>> } = {
  vf: { add: "fadd", sub: "fsub", mul: "fmul", div: "fdiv" },
  f32: { add: "fadd_s", sub: "fsub_s", mul: "fmul_s", div: "fdiv_s" },
  vi: {
    add: "add",
    sub: "sub",
    mul: "mul",
    min: "smin",
    max: "smax",
    and: "and",
    or: "orr",
    xor: "eor",
    shuffleBytes: "tbl",
    equalBytes: "cmeq_16b",
  },
  vb: { and: "and", or: "orr", xor: "eor" },
};
const UNARY: Partial<Record<Op, VectorName>> = { sqrt: "fsqrt", round: "frintn", floor: "frintm" };
const UNPACKS: readonly VectorName[] = ["zip1", "zip2", "zip1_2d", "zip2_2d"];
const LOADS: { readonly [E in Element]: MemoryName | undefined } = {
  i64: "ldr_x",
  i32: "ldrsw",
  i16: "ldrsh",
  u16: "ldrh",
  bf16: "ldrh",
  i8: "ldrsb",
  u8: "ldrb",
  f16: undefined,
  f32: undefined,
};
const STORES: { readonly [B in 1 | 2 | 4 | 8]: MemoryName } = { 1: "strb", 2: "strh", 4: "str_w", 8: "str_x" };
/** Loads of four elements, by the bytes of one. */
const WHOLE: { readonly [B in 1 | 2 | 4]: MemoryName } = { 1: "ldr_s", 2: "ldr_d", 4: "ldr_q" };

export interface Arm64Options {
  /** Whether the processor has the instruction that sums products of bytes (FEAT_DotProd). */
  readonly dotProduct?: boolean;
  readonly listing?: boolean;
}

/** Machine code of one kernel: a function that takes the address of its argument block and the range of its items. */
export function emitArm64(code: KernelCode, options: Arm64Options = {}): MachineCode {
  removeMoves(code);
  const plain = structuredClone(code);
  legalize(code, true, options.dotProduct ?? false);
  try {
    const emitter = new Emitter(code, options);
    if (emitter.fits) return emitter.run();
  } catch (error) {
    if (!(error instanceof RegisterPressureError)) throw error;
  }
  // Where constants find no registers beside everything else, they are loaded where they are used.
  legalize(plain, false, options.dotProduct ?? false);
  return new Emitter(plain, options).run();
}

class Emitter extends RegisterEmitter {
  readonly #asm: Assembler;
  readonly #factors: ReadonlySet<Reg>;
  /** Bytes of the stack slots of integers. */
  readonly #generalBytes: number;

  constructor(code: KernelCode, { listing }: Arm64Options) {
    super(code, REGISTERS);
    this.#asm = new Assembler({ listing });
    this.#factors = factors(code);
    this.#generalBytes = Math.ceil(this.general.slots.size / 2) * 16;
  }

  /** Whether no vector lies on the stack. */
  get fits(): boolean {
    return this.vector.slots.size === 0;
  }

  run(): MachineCode {
    const asm = this.#asm;
    const { general, vectors } = this.used();
    const savedAt = this.#generalBytes + this.vector.slots.size * 16;
    const saved: [load: MemoryName, store: MemoryName, register: number][] = [
      ...SAVED.filter((reg) => general.has(reg)).map((reg) => ["ldr_x", "str_x", reg] as const),
      ...SAVED_VECTORS.filter((reg) => vectors.has(reg)).map((reg) => ["ldr_d", "str_d", reg] as const),
    ].map((entry) => [...entry]);
    const frame = Math.ceil((savedAt + saved.length * 8) / 16) * 16;

    asm.comment(this.code.name);
    if (frame) asm.addImmediate(SP, SP, -frame);
    saved.forEach(([, store, reg], i) => {
      asm.memory(store, reg, { base: SP, disp: savedAt + i * 8 });
    });
    // Nothing lives before the parameters, so each has the register it arrives in, or a stack slot.
    this.code.parameters.forEach((reg, i) => {
      const at = REGISTERS.parameters[i];
      // Numbers of items come as 32 bits; what the upper half holds is undefined.
      if (i > 0) asm.extend32(at, at);
      if (this.general.slots.has(reg)) this.storeGeneral(reg, at);
    });

    this.nodes(this.code.body);

    saved.forEach(([load, , reg], i) => {
      asm.memory(load, reg, { base: SP, disp: savedAt + i * 8 });
    });
    if (frame) asm.addImmediate(SP, SP, frame);
    asm.ret();
    return { code: asm.finish(), listing: asm.listing };
  }

  // ---- control ----

  protected override comment(text: string): void {
    this.#asm.comment(text);
  }

  protected override bind(label: Label): void {
    this.#asm.bind(label);
  }

  protected override alignLoop(): void {
    this.#asm.align(32);
  }

  protected override jump(target: Label) {
    this.#asm.branch("always", target);
  }

  protected override branch({ comparison, left, right }: Condition, target: Label) {
    const asm = this.#asm;
    const a = this.g(left);
    if (right.kind === "immediate" && right.value === 0 && (comparison === "eq" || comparison === "ne")) {
      asm.branchZero(comparison === "eq", a, target);
    } else {
      if (right.kind === "immediate" && Math.abs(right.value) < 4096) asm.compareImmediate(a, right.value);
      else asm.compare(a, this.#integer(right));
      asm.branch(CONDITIONS[comparison], target);
    }
    this.release();
  }

  // ---- places ----

  #slot(reg: Reg): Memory {
    const slot = this.general.slots.get(reg);
    if (slot !== undefined) return { base: SP, disp: slot * 8 };
    return { base: SP, disp: this.#generalBytes + this.vector.slots.get(reg)! * 16 };
  }

  protected override loadGeneral(register: number, from: Reg): void {
    this.#asm.memory("ldr_x", register, this.#slot(from));
  }

  protected override storeGeneral(to: Reg, register: number): void {
    this.#asm.memory("str_x", register, this.#slot(to));
  }

  protected override loadVector(register: number, from: Reg): void {
    this.#asm.memory("ldr_q", register, this.#slot(from));
  }

  protected override storeVector(to: Reg, register: number): void {
    this.#asm.memory("str_q", register, this.#slot(to));
  }

  /** A register that holds an integer, a constant too. */
  #integer(operand: Operand): number {
    if (operand.kind === "reg") return this.g(operand);
    this.#asm.moveImmediate(CONSTANT, operand.value);
    return CONSTANT;
  }

  #add(dst: number, left: number, value: number) {
    if (Math.abs(value) < 2 ** 24) return this.#asm.addImmediate(dst, left, value);
    this.#asm.moveImmediate(CONSTANT, value);
    this.#asm.arithmetic("add", dst, left, CONSTANT);
  }

  /** What an access of so many bytes names; sums that it cannot hold go to the address register. */
  #memory({ base, index, scale, disp }: Address, bytes: number): Memory {
    const from = this.g(base);
    let memory: Memory = { base: from, disp };
    if (index) {
      const shift = Math.log2(scale);
      const to = this.g(index);
      memory = { base: from, index: to, shift };
      if (disp === 0 && Assembler.reaches(memory, bytes)) return memory;
      this.#asm.arithmetic("add", ADDRESS, from, to, shift);
      memory = { base: ADDRESS, disp };
    }
    if (Assembler.reaches(memory, bytes)) return memory;
    this.#add(ADDRESS, memory.base, disp);
    return { base: ADDRESS };
  }

  /** Puts an address into the address register. */
  #address({ base, index, scale, disp }: Address) {
    const from = this.g(base);
    if (index) this.#asm.arithmetic("add", ADDRESS, from, this.g(index), Math.log2(scale));
    if (disp || !index) this.#add(ADDRESS, index ? ADDRESS : from, disp);
  }

  // ---- instructions ----

  protected override needs({ op, imm, args, element }: Instruction): Type[] {
    if (op === "packBytes" || op === "mulWide" || (op === "dot" && args.length === 2)) return ["vi", "vi"];
    if (op === "reduce") return imm === 0 ? ["vf"] : ["vf", "vf"];
    if (op === "store" && (args[0] as Reg).type === "vi" && ELEMENT_BYTES[element!] === 2) return ["vi"];
    return [];
  }

  protected override instruction(instruction: Instruction) {
    const { dst, op, address, imm } = instruction;
    if (op === "store") return this.#store(instruction);
    if (op === "prefetch")
      return this.#asm.memory("prfm", imm === 1 ? PLDL1KEEP : PLDL2KEEP, this.#memory(address!, 8));
    if (isGeneral(dst!)) return this.#generalOp(instruction, this.dst(dst!));
    // A vector is one block.
    if (op === "load" || op === "loadBlock") return this.#load(instruction, dst!);
    this.#vectorOp(instruction, dst!);
  }

  #generalOp(instruction: Instruction, d: number) {
    const asm = this.#asm;
    const { op, args, address } = instruction;
    switch (op) {
      case "load":
        return asm.memory(LOADS[instruction.element!]!, d, this.#memory(address!, ELEMENT_BYTES[instruction.element!]));
      case "const":
        return asm.moveImmediate(d, (args[0] as Immediate).value);
      case "exchange":
        return this.#exchange(instruction, d);
    }
    const a = this.g(args[0] as Reg);
    const [, right] = args;
    switch (op) {
      case "move":
        if (d !== a) asm.move(d, a);
        return;
      case "neg":
        return asm.negate(d, a);
      case "shl":
      case "shr":
      case "sar": {
        const names = { shl: "lsl", shr: "lsr", sar: "asr" } as const;
        return asm.shiftImmediate(names[op], d, a, (right as Immediate).value);
      }
      case "add":
      case "sub":
        if (right.kind === "immediate") return this.#add(d, a, op === "add" ? right.value : -right.value);
        return asm.arithmetic(op, d, a, this.g(right));
      case "mul":
        return asm.multiply(d, a, this.#integer(right));
      case "and":
      case "or":
      case "xor": {
        const name = ({ and: "and", or: "orr", xor: "eor" } as const)[op];
        if (right.kind === "immediate" && asm.logicImmediate(name, d, a, right.value)) return;
        return asm.logic(name, d, a, this.#integer(right));
      }
      case "min":
      case "max": {
        const b = this.#integer(right);
        asm.compare(a, b);
        return asm.select(op === "min" ? "lt" : "gt", d, a, b);
      }
      default:
        throw new TypeError(`arm64 emitter: no ${op} of integers`);
    }
  }

  /** Exclusive load and store until none comes between: processors before Armv8.1 have no exchange. */
  #exchange({ args, address }: Instruction, d: number) {
    const asm = this.#asm;
    this.#address(address!);
    let value = this.g(args[0] as Reg);
    if (value === d) {
      // Both lie on the stack and were given the same register.
      value = REGISTERS.general.at(-SCRATCH)!;
      asm.move(value, d);
    }
    const again = this.label();
    asm.bind(again);
    asm.loadExclusive(d, ADDRESS);
    asm.storeExclusive(CONSTANT, value, ADDRESS);
    asm.branchZero(false, CONSTANT, again, 32);
  }

  #vectorOp(instruction: Instruction, reg: Reg) {
    const asm = this.#asm;
    const { op, args, address } = instruction;
    const type = reg.type as Exclude<Type, "index">;
    const d = this.dst(reg);
    if (op === "mul" && type === "vf") return this.#product("fmul", "fmul_element", d, args);
    const binary = BINARY[type][op];
    if (binary) return asm.vector(binary, d, this.v(args[0]), this.v(args[1]));
    switch (op) {
      case "const":
        return this.#constant(d, args[0] as Immediate);
      case "first":
      case "move": {
        const a = this.v(args[0]);
        if (a !== d) asm.vectorMove(d, a);
        return;
      }
      case "andnot":
        return asm.vector("bic", d, this.v(args[1]), this.v(args[0]));
      case "min":
      case "max": {
        const [a, b] = args.map((arg) => this.v(arg));
        asm.vector("fcmp_s", 0, a, b);
        return asm.vector("fcsel_s", d, a, b, op === "min" ? CONDITION.mi : CONDITION.gt);
      }
      case "shl":
      case "shr":
      case "sar": {
        const names = { shl: "shl", shr: "ushr", sar: "sshr" } as const;
        return asm.vector(names[op], d, this.v(args[0]), 0, (args[1] as Immediate).value);
      }
      case "sqrt":
      case "round":
      case "floor":
        return asm.vector(type === "f32" ? "fsqrt_s" : UNARY[op]!, d, this.v(args[0]));
      case "fma":
      case "fnma":
        return this.#fma(instruction, reg, d);
      case "compare":
        return this.#compare(instruction, d);
      case "select":
        return this.#select(args, d);
      case "convert": {
        const from = args[0] as Reg;
        if (isGeneral(from)) return asm.vector("scvtf_s", d, this.g(from));
        return asm.vector(type === "vf" ? "scvtf" : "fcvtns", d, this.v(from));
      }
      case "splat": {
        const from = args[0] as Reg;
        if (isGeneral(from)) return asm.vector("dup_w", d, this.g(from));
        if (!this.#factors.has(reg)) return asm.vector("dup", d, this.v(from));
        const a = this.v(from);
        if (a !== d) asm.vectorMove(d, a);
        return;
      }
      case "lanes":
        return asm.loadConstant(d, this.#pool(Int32Array.from({ length: LANES }, (_, i) => instruction.imm! + i)));
      case "broadcast":
        return this.#broadcast(instruction, reg, d);
      case "broadcastBlock":
        return asm.memory("ldr_q", d, this.#memory(address!, 16));
      case "nibbles":
        asm.memory("ldr_q", d, this.#memory(address!, 16));
        if (instruction.imm === 0) asm.vector("shl_16b", d, d, 0, 4);
        return asm.vector("ushr_16b", d, d, 0, 4);
      case "unpack":
        return asm.vector(UNPACKS[instruction.imm!], d, this.v(args[0]), this.v(args[1]));
      case "widenBytes": {
        const sign = instruction.imm === 1 ? "s" : "u";
        asm.vector(`${sign}xtl_8h`, d, this.v(args[0]));
        return asm.vector(`${sign}xtl`, d, d);
      }
      case "packBytes": {
        const [a, b, c, e] = args.map((arg) => this.v(arg));
        const [low, high] = [this.temporary(instruction, 0), this.temporary(instruction, 1)];
        asm.vector("sqxtn", low, a);
        asm.vector("sqxtn2", low, b);
        asm.vector("sqxtn", high, c);
        asm.vector("sqxtn2", high, e);
        asm.vector("sqxtn_8b", d, low);
        return asm.vector("sqxtn2_16b", d, high);
      }
      case "dot":
        return this.#dot(instruction, d);
      case "mulWide": {
        // The multiplier takes neighbours, so the even lanes are brought together first.
        const even = args.map((arg, i) => {
          const narrow = this.temporary(instruction, i);
          asm.vector("xtn_2s", narrow, this.v(arg));
          return narrow;
        });
        return asm.vector("umull_2d", d, even[0]!, even[1]!);
      }
      case "oddLanes": {
        const a = this.v(args[0]);
        return asm.vector("trn2", d, a, a);
      }
      case "reduce":
        return this.#reduce(instruction, d);
      default:
        throw new TypeError(`arm64 emitter: no ${op} of ${type}`);
    }
  }

  #pool(values: Int32Array | Float32Array | Uint8Array): Label {
    return this.#asm.constant(new Uint8Array(values.buffer));
  }

  #constant(d: number, { type, value, bytes }: Immediate) {
    const lanes = type === "vi" ? new Int32Array(LANES).fill(value) : new Float32Array(LANES).fill(value);
    const content = bytes ? Uint8Array.from(bytes) : new Uint8Array(lanes.buffer);
    const words = new Uint32Array(content.buffer);
    if (words.every((word) => word === words[0]) && this.#asm.moveLanes(d, words[0])) return;
    this.#asm.loadConstant(d, this.#pool(content));
  }

  /** Products with a factor whose lowest lane alone counts name that lane. */
  #product(plain: VectorName, byElement: VectorName, d: number, [a, b]: readonly Operand[]) {
    const [left, right] = [this.v(a), this.v(b)];
    if (this.#factors.has(b as Reg)) this.#asm.vector(byElement, d, left, right);
    else if (this.#factors.has(a as Reg)) this.#asm.vector(byElement, d, right, left);
    else this.#asm.vector(plain, d, left, right);
  }

  #fma({ op, args }: Instruction, reg: Reg, d: number) {
    if (reg.type === "f32") {
      const [a, b, c] = args.map((arg) => this.v(arg));
      return this.#asm.vector(op === "fma" ? "fmadd_s" : "fmsub_s", d, a, b, 0, c);
    }
    // The sum is the result itself. Read first, it gets the result's register even where both lie on the stack.
    this.v(args[2]);
    if (op === "fma") this.#product("fmla", "fmla_element", d, args);
    else this.#product("fmls", "fmls_element", d, args);
  }

  #compare({ args, comparison, imm }: Instruction, d: number) {
    const [a, b] = args.map((arg) => this.v(arg));
    const asm = this.#asm;
    if (imm === 1) return asm.vector(comparison === "eq" ? "cmeq" : "cmgt", d, a, b);
    switch (comparison!) {
      case "eq":
        return asm.vector("fcmeq", d, a, b);
      case "ne":
        asm.vector("fcmeq", d, a, b);
        return asm.vector("mvn", d, d);
      case "gt":
        return asm.vector("fcmgt", d, a, b);
      case "ge":
        return asm.vector("fcmge", d, a, b);
      case "lt":
        return asm.vector("fcmgt", d, b, a);
      case "le":
        return asm.vector("fcmge", d, b, a);
    }
  }

  /** Three forms, by the operand that is overwritten. */
  #select(args: readonly Operand[], d: number) {
    const [mask, yes, no] = args.map((arg) => this.v(arg));
    const asm = this.#asm;
    if (d === yes) return asm.vector("bif", d, no, mask);
    if (d === no) return asm.vector("bit", d, yes, mask);
    if (d !== mask) asm.vectorMove(d, mask);
    asm.vector("bsl", d, yes, no);
  }

  #dot(instruction: Instruction, d: number) {
    const asm = this.#asm;
    const { args } = instruction;
    if (args.length === 3) {
      this.v(args[2]);
      return asm.vector("sdot", d, this.v(args[0]), this.v(args[1]));
    }
    const [a, b] = args.map((arg) => this.v(arg));
    const [low, high] = [this.temporary(instruction, 0), this.temporary(instruction, 1)];
    asm.vector("smull", low, a, b);
    asm.vector("smull2", high, a, b);
    asm.vector("saddlp", d, low);
    asm.vector("sadalp", d, high);
  }

  #reduce(instruction: Instruction, d: number) {
    const asm = this.#asm;
    const a = this.v(instruction.args[0]);
    const t = this.temporary(instruction, 0);
    asm.vector("ext", t, a, a, 8);
    if (instruction.imm === 0) {
      asm.vector("fadd", t, a, t);
      return asm.vector("faddp_s", d, t);
    }
    const greater = this.temporary(instruction, 1);
    asm.vector("fcmgt", greater, a, t);
    asm.vector("bsl", greater, a, t);
    asm.vector("ext", t, greater, greater, 4);
    asm.vector("fcmp_s", 0, greater, t);
    asm.vector("fcsel_s", d, greater, t, CONDITION.gt);
  }

  // ---- vectors and memory ----

  /** One element as f32 in the lowest lane. */
  #one(d: number, element: Element, address: Address) {
    const asm = this.#asm;
    if (ELEMENT_BYTES[element] === 4) return asm.memory("ldr_s", d, this.#memory(address, 4));
    asm.memory("ldr_h", d, this.#memory(address, 2));
    if (element === "bf16") asm.vector("shl", d, d, 0, 16);
    else if (element === "f16") asm.vector("fcvt_s", d, d);
    else throw new TypeError(`arm64 emitter: no load of one ${element} as f32`);
  }

  #broadcast({ element, address }: Instruction, reg: Reg, d: number) {
    const { base, index, disp } = address!;
    const whole = ELEMENT_BYTES[element!] === 4 && !this.#factors.has(reg);
    if (whole && !index && disp === 0) return this.#asm.loadAll(d, this.g(base));
    this.#one(d, element!, address!);
    if (!this.#factors.has(reg)) this.#asm.vector("dup", d, d);
  }

  #load({ element, address, count }: Instruction, reg: Reg) {
    const asm = this.#asm;
    const d = this.dst(reg);
    if (reg.type === "f32") return this.#one(d, element!, address!);
    const bytes = ELEMENT_BYTES[element!];
    if (bytes === 8) throw new TypeError("arm64 emitter: no vectors of i64");
    if (count) {
      this.#some("ld1", d, bytes, address!, count, () => asm.memory(WHOLE[bytes], d, { base: ADDRESS }));
    } else asm.memory(WHOLE[bytes], d, this.#memory(address!, 4 * bytes));
    const asFloat = reg.type === "vf";
    switch (element!) {
      case "f32":
        return;
      case "f16":
        return asm.vector("fcvtl", d, d);
      case "bf16":
        return asm.vector(asFloat ? "shll" : "uxtl", d, d);
    }
    const sign = element === "u8" || element === "u16" ? "u" : "s";
    if (bytes === 1) asm.vector(`${sign}xtl_8h`, d, d);
    if (bytes < 4) asm.vector(`${sign}xtl`, d, d);
    if (asFloat) asm.vector("scvtf", d, d);
  }

  #store(instruction: Instruction) {
    const asm = this.#asm;
    const { args, element, address, count } = instruction;
    const value = args[0] as Reg;
    const bytes = ELEMENT_BYTES[element!];
    if (isGeneral(value)) return asm.memory(STORES[bytes], this.g(value), this.#memory(address!, bytes));
    let source = this.v(value);
    if (value.type === "f32") return asm.memory("str_s", source, this.#memory(address!, 4));
    if (bytes !== 2 && bytes !== 4) throw new TypeError(`arm64 emitter: no store of ${value.type} as ${element}`);
    if (bytes === 2) {
      const narrow = this.temporary(instruction);
      asm.vector("sqxtun", narrow, source);
      source = narrow;
    }
    const name = bytes === 2 ? "str_d" : "str_q";
    if (count) this.#some("st1", source, bytes, address!, count, () => asm.memory(name, source, { base: ADDRESS }));
    else asm.memory(name, source, this.#memory(address!, 4 * bytes));
  }

  /** A vector of which only `count` elements may be touched: there are no masks, so lane by lane unless it is whole. */
  #some(name: "ld1" | "st1", v: number, bytes: 1 | 2 | 4, address: Address, count: Reg, whole: () => void) {
    const asm = this.#asm;
    const [all, end] = [this.label(), this.label()];
    this.#address(address);
    const n = this.g(count);
    asm.compareImmediate(n, LANES);
    asm.branch("ge", all);
    if (name === "ld1") asm.moveLanes(v, 0);
    for (let lane = 0; lane < LANES - 1; lane++) {
      asm.compareImmediate(n, lane);
      asm.branch("le", end);
      asm.lane(name, v, lane, bytes, ADDRESS);
    }
    asm.branch("always", end);
    asm.bind(all);
    whole();
    asm.bind(end);
  }
}
