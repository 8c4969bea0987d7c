/** Lowers a kernel to x86-64 machine code with AVX2 and FMA. */

import { Assembler, type ConditionName, GPR, Label, type Memory, type Operand } from "../asm/x64.ts";
import type { VexName } from "../asm/x64-table.ts";
import type {
  Address,
  Comparison,
  Condition,
  Instruction,
  Operand as IrOperand,
  KernelCode,
  Node,
  Op,
  Reg,
  Type,
} from "../lang/ir.ts";
import { ELEMENT_BYTES, negate } from "../lang/ir.ts";
import { type Allocation, allocate } from "./allocate.ts";
import { liveness, localize, removeMoves } from "./prepare.ts";

/** Who saves which registers, and where the argument arrives. */
export type Abi = "sysv" | "win64";

export interface MachineCode {
  readonly code: Uint8Array<ArrayBuffer>;
  /** GNU assembler text, when it was asked for. */
  readonly listing: readonly string[];
}

const { rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15 } = GPR;
const ABIS = {
  sysv: {
    parameters: [rdi, rsi, rdx],
    registers: [rdi, rsi, rdx, rax, rcx, r8, r9, r10, r11, rbx, rbp, r12, r13, r14, r15],
    saved: [rbx, rbp, r12, r13, r14, r15],
    savedVectors: [],
  },
  win64: {
    parameters: [rcx, rdx, r8],
    registers: [rcx, rdx, r8, rax, r9, r10, r11, rbx, rbp, rdi, rsi, r12, r13, r14, r15],
    saved: [rbx, rbp, rdi, rsi, r12, r13, r14, r15],
    savedVectors: [6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
  },
} as const;
const VECTORS = Array.from({ length: 16 }, (_, i) => i);
const SCRATCH = 3;

const VECTOR_OPS: { readonly [T in "vf" | "vi" | "vb" | "f32"]: Partial<Record<Op, VexName>> } = {
  vf: {
    add: "vaddps",
    sub: "vsubps",
    mul: "vmulps",
    div: "vdivps",
    min: "vminps",
    max: "vmaxps",
  },
  f32: { add: "vaddss", sub: "vsubss", mul: "vmulss", div: "vdivss", min: "vminss", max: "vmaxss" },
  vi: {
    add: "vpaddd",
    sub: "vpsubd",
    mul: "vpmulld",
    min: "vpminsd",
    max: "vpmaxsd",
    and: "vpand",
    or: "vpor",
    xor: "vpxor",
  },
  vb: { and: "vandps", or: "vorps", xor: "vxorps", andnot: "vandnps" },
};
const SHIFTS: Partial<Record<Op, VexName>> = { shl: "vpslld", shr: "vpsrld", sar: "vpsrad" };
const UNPACKS: readonly VexName[] = ["vunpcklps", "vunpckhps", "vunpcklpd", "vunpckhpd"];
const REDUCTIONS: readonly [VexName, VexName][] = [
  ["vaddps", "vaddss"],
  ["vmaxps", "vmaxss"],
];
/** vcmpps predicates, quiet: false on NaN but for `ne`. */
const PREDICATES: { readonly [C in Comparison]: number } = { lt: 17, le: 18, eq: 0, ne: 4, gt: 30, ge: 29 };
const CONDITIONS: { readonly [C in Comparison]: ConditionName } = {
  lt: "l",
  le: "le",
  eq: "e",
  ne: "ne",
  gt: "g",
  ge: "ge",
};
const isGeneral = (reg: Reg): boolean => reg.type === "index";

/** Machine code of one kernel: a function that takes the address of its argument block and returns nothing. */
export function emitX64(code: KernelCode, options: { abi?: Abi; listing?: boolean } = {}): MachineCode {
  removeMoves(code);
  return new Emitter(code, options.abi ?? "sysv", options.listing ?? false).run();
}

class Emitter {
  readonly #code: KernelCode;
  readonly #asm: Assembler;
  readonly #abi: (typeof ABIS)[Abi];
  readonly #temporaries = new Map<Instruction, Reg[]>();
  readonly #general: Allocation;
  readonly #vector: Allocation;
  readonly #vectorSlots: number;
  #labels = 0;
  #generalScratch = 0;
  #vectorScratch = 0;
  /** The register whose comparison with 0 the flags hold, straight after arithmetic. */
  #flags: Reg | undefined;

  constructor(code: KernelCode, abi: Abi, listing: boolean) {
    this.#code = code;
    this.#asm = new Assembler({ listing });
    this.#abi = ABIS[abi];
    let next = localize(code);
    const live = liveness(code, (instruction) => {
      const temporaries: Reg[] = needs(instruction).map((type) => ({ kind: "reg", id: next++, type }));
      if (temporaries.length) this.#temporaries.set(instruction, temporaries);
      return { temporaries, early: isEarly(instruction) };
    });
    const fixed = new Map<Reg, number>(code.parameters.map((reg, i) => [reg, this.#abi.parameters[i]]));
    const general = { registers: this.#abi.registers, scratch: SCRATCH };
    this.#general = allocate(code.name, live, general, isGeneral, fixed);
    this.#vector = allocate(code.name, live, { registers: VECTORS, scratch: SCRATCH }, (reg) => !isGeneral(reg));
    this.#vectorSlots = this.#general.slots.size * 8;
  }

  run(): MachineCode {
    const asm = this.#asm;
    const used = new Set(this.#general.places.values());
    if (this.#general.slots.size) for (const reg of this.#abi.registers.slice(-SCRATCH)) used.add(reg);
    const saved = this.#abi.saved.filter((reg) => used.has(reg));
    const usedVectors = new Set(this.#vector.places.values());
    if (this.#vector.slots.size) for (const reg of VECTORS.slice(-SCRATCH)) usedVectors.add(reg);
    const savedVectors = this.#abi.savedVectors.filter((reg) => usedVectors.has(reg));
    const savedAt = this.#vectorSlots + this.#vector.slots.size * 32;
    const frame = savedAt + savedVectors.length * 16;

    asm.comment(this.#code.name);
    for (const reg of saved) asm.push(reg);
    if (frame) asm.arithmeticImmediate("sub", rsp, frame);
    savedVectors.forEach((reg, i) => {
      asm.vex("vmovups_store", 128, [{ base: rsp, disp: savedAt + i * 16 }, reg]);
    });
    // Nothing lives before the parameters, so each has the register it arrives in, or a stack slot.
    this.#code.parameters.forEach((reg, i) => {
      // Numbers of items come as 32 bits; what the upper half holds is undefined.
      if (i > 0) asm.extend32(this.#abi.parameters[i], this.#abi.parameters[i]);
      if (this.#general.slots.has(reg)) asm.store(this.#slot(reg), this.#abi.parameters[i], 8);
    });

    this.#nodes(this.#code.body);

    asm.vzeroupper();
    savedVectors.forEach((reg, i) => {
      asm.vex("vmovups", 128, [reg, { base: rsp, disp: savedAt + i * 16 }]);
    });
    if (frame) asm.arithmeticImmediate("add", rsp, frame);
    for (const reg of saved.toReversed()) asm.pop(reg);
    asm.ret();
    return { code: asm.finish(), listing: asm.listing };
  }

  // ---- control ----

  #label(): Label {
    return new Label(`L${this.#labels++}`);
  }

  #nodes(nodes: readonly Node[]): void {
    for (const node of nodes) {
      if (node.kind === "comment") this.#asm.comment(node.text);
      else if (node.kind === "op") this.#instruction(node);
      else if (node.kind === "if") {
        const otherwise = this.#label();
        this.#branch({ ...node.condition, comparison: negate[node.condition.comparison] }, otherwise);
        this.#nodes(node.yes);
        if (node.no.length) {
          const end = this.#label();
          this.#asm.jump("always", end);
          this.#bind(otherwise);
          this.#nodes(node.no);
          this.#bind(end);
        } else this.#bind(otherwise);
      } else {
        const start = this.#label();
        if (!node.body.some((inner) => inner.kind === "loop")) this.#asm.align(32);
        this.#bind(start);
        this.#nodes(node.body);
        this.#branch(node.condition, start);
      }
    }
  }

  #bind(label: Label): void {
    this.#flags = undefined;
    this.#asm.bind(label);
  }

  #branch({ comparison, left, right }: Condition, target: Label): void {
    const zero = right.kind === "immediate" && right.value === 0;
    if (!(zero && this.#flags === left && (comparison === "ne" || comparison === "eq"))) {
      const a = this.#g(left);
      if (right.kind === "reg") this.#asm.arithmetic("cmp", a, this.#g(right));
      else this.#asm.arithmeticImmediate("cmp", a, right.value);
    }
    this.#flags = undefined;
    this.#release();
    this.#asm.jump(CONDITIONS[comparison], target);
  }

  // ---- places ----

  #slot(reg: Reg): Memory {
    const slot = this.#general.slots.get(reg);
    if (slot !== undefined) return { base: rsp, disp: slot * 8 };
    return { base: rsp, disp: this.#vectorSlots + this.#vector.slots.get(reg)! * 32 };
  }

  #release(): void {
    this.#generalScratch = 0;
    this.#vectorScratch = 0;
  }

  /** The general register that holds a value, loaded from the stack if it lives there. */
  #g(reg: Reg): number {
    const place = this.#general.places.get(reg);
    if (place !== undefined) return place;
    const scratch = this.#abi.registers.at(-1 - this.#generalScratch++)!;
    this.#asm.load(scratch, this.#slot(reg), 8);
    return scratch;
  }

  #v(operand: IrOperand): number {
    const place = this.#vector.places.get(operand as Reg);
    if (place !== undefined) return place;
    const scratch = VECTORS.at(-1 - this.#vectorScratch++)!;
    this.#asm.vex("vmovups", 256, [scratch, this.#slot(operand as Reg)]);
    return scratch;
  }

  /** A vector operand that may be memory: a constant of the pool, or a spilled vector where it lies. */
  #vm(operand: IrOperand): Operand {
    if (operand.kind === "immediate") return this.#pool(operand.type, operand.value, 8);
    const place = this.#vector.places.get(operand);
    return place ?? this.#slot(operand);
  }

  #pool(type: Type, value: number, lanes: number): Memory {
    const values = type === "vi" ? new Int32Array(lanes).fill(value) : new Float32Array(lanes).fill(value);
    return { label: this.#asm.constant(new Uint8Array(values.buffer)) };
  }

  /** The numbers of the lanes plus `start`. */
  #lanes(start: number): Memory {
    const numbers = Int32Array.from({ length: 8 }, (_, i) => start + i);
    return { label: this.#asm.constant(new Uint8Array(numbers.buffer)) };
  }

  /** Where a result goes; a spilled one is stored by `#done`. */
  #dst(reg: Reg): number {
    const { places } = isGeneral(reg) ? this.#general : this.#vector;
    return places.get(reg) ?? (isGeneral(reg) ? this.#abi.registers.at(-1)! : VECTORS.at(-1)!);
  }

  #done(reg: Reg): void {
    if (this.#general.slots.has(reg)) this.#asm.store(this.#slot(reg), this.#dst(reg), 8);
    else if (this.#vector.slots.has(reg)) this.#asm.vex("vmovups_store", 256, [this.#slot(reg), this.#dst(reg)]);
  }

  #memory({ base, index, scale, disp }: Address, extra = 0): Memory {
    return { base: this.#g(base), index: index && this.#g(index), scale, disp: disp + extra };
  }

  // ---- instructions ----

  #instruction(instruction: Instruction): void {
    const { dst, op } = instruction;
    this.#flags = undefined;
    if (dst && isGeneral(dst)) this.#generalOp(instruction, dst);
    else if (op === "load") this.#vectorLoad(instruction, dst!, this.#dst(dst!), 256);
    else if (op === "loadBlock") this.#loadBlock(instruction, dst!);
    else if (op === "store") this.#store(instruction);
    else if (op === "prefetch") this.#asm.prefetch("t1", this.#memory(instruction.address!));
    else this.#vectorOp(instruction, dst!);
    this.#release();
    if (dst) this.#done(dst);
  }

  #generalOp(instruction: Instruction, reg: Reg) {
    const asm = this.#asm;
    const { op, args } = instruction;
    if (op === "load") {
      const element = instruction.element!;
      const signed = element !== "u8" && element !== "u16" && element !== "bf16";
      const memory = this.#memory(instruction.address!);
      return asm.load(this.#dst(reg), memory, ELEMENT_BYTES[element], signed);
    }
    if (op === "const") {
      const value = (args[0] as { value: number }).value;
      if (value === 0) return asm.arithmetic("xor", this.#dst(reg), this.#dst(reg), 32);
      return asm.moveImmediate(this.#dst(reg), value);
    }
    if (op === "exchange") {
      const value = this.#g(args[0] as Reg);
      const memory = this.#memory(instruction.address!);
      const d = this.#general.places.get(reg) ?? value;
      if (d !== value) asm.move(d, value);
      asm.exchange(memory, d);
      if (d !== this.#dst(reg)) asm.move(this.#dst(reg), d);
      return;
    }
    const a = this.#g(args[0] as Reg);
    const b = args.length < 2 ? -1 : args[1].kind === "reg" ? this.#g(args[1]) : undefined;
    const d = this.#dst(reg);
    const value = b === undefined ? (args[1] as { value: number }).value : 0;
    const copy = (): void => {
      if (d !== a) asm.move(d, a);
    };
    switch (op) {
      case "move":
        return copy();
      case "neg":
        copy();
        return asm.negate(d);
      case "shl":
      case "shr":
      case "sar":
        copy();
        return asm.shiftImmediate(op, d, value);
      case "add":
        if (b === undefined && d !== a) return asm.lea(d, { base: a, disp: value });
        if (b !== undefined && d !== a && d !== b) return asm.lea(d, { base: a, index: b, scale: 1 });
        this.#flags = reg;
        if (b === undefined) return asm.arithmeticImmediate("add", d, value);
        return asm.arithmetic("add", d, d === a ? b : a);
      case "sub":
        if (b === undefined && d !== a) return asm.lea(d, { base: a, disp: -value });
        if (b !== undefined && d === b && d !== a) {
          asm.negate(d);
          return asm.arithmetic("add", d, a);
        }
        copy();
        this.#flags = reg;
        return b === undefined ? asm.arithmeticImmediate("sub", d, value) : asm.arithmetic("sub", d, b);
      case "mul":
        if (b === undefined) return asm.multiplyImmediate(d, a, value);
        if (d === b) return asm.multiply(d, a);
        copy();
        return asm.multiply(d, b);
      case "and":
      case "or":
      case "xor":
        if (b !== undefined) {
          if (d === b) return asm.arithmetic(op, d, a);
          copy();
          return asm.arithmetic(op, d, b);
        }
        copy();
        return asm.arithmeticImmediate(op, d, value);
      case "min":
      case "max": {
        let other = b;
        if (other === undefined) {
          other = this.#g(this.#temporaries.get(instruction)![0]);
          asm.moveImmediate(other, value);
        }
        const keep: ConditionName = op === "min" ? "l" : "g";
        if (d === other) {
          asm.arithmetic("cmp", a, d);
          return asm.conditionalMove(keep, d, a);
        }
        copy();
        asm.arithmetic("cmp", other, d);
        return asm.conditionalMove(keep, d, other);
      }
      default:
        throw new TypeError(`x64 emitter: no ${op} of integers`);
    }
  }

  #vectorOp(instruction: Instruction, reg: Reg) {
    const asm = this.#asm;
    const { op, args } = instruction;
    const type = reg.type as "vf" | "vi" | "vb" | "f32";
    const length = type === "f32" ? 128 : 256;
    const binary = VECTOR_OPS[type][op];
    if (binary) {
      const a = this.#v(args[0]);
      return asm.vex(binary, length, [this.#dst(reg), a, this.#vm(args[1])]);
    }
    switch (op) {
      case "const": {
        const { value } = args[0] as { value: number };
        const d = this.#dst(reg);
        if (value === 0 && !Object.is(value, -0)) return asm.vex("vxorps", 128, [d, d, d]);
        if (type === "f32") return asm.vex("vmovss", 0, [d, this.#pool(type, value, 1)]);
        return asm.vex("vbroadcastss", 256, [d, this.#pool(type, value, 1)]);
      }
      case "first":
      case "move": {
        const a = this.#v(args[0]);
        if (a !== this.#dst(reg)) asm.vex("vmovaps", length, [this.#dst(reg), a]);
        return;
      }
      case "shl":
      case "shr":
      case "sar": {
        const a = this.#v(args[0]);
        return asm.vex(SHIFTS[op]!, 256, [this.#dst(reg), a], (args[1] as { value: number }).value);
      }
      case "sqrt":
        if (type === "f32") {
          const a = this.#v(args[0]);
          return asm.vex("vsqrtss", 0, [this.#dst(reg), a, a]);
        }
        return asm.vex("vsqrtps", 256, [this.#dst(reg), this.#vm(args[0])]);
      case "round":
      case "floor":
        return asm.vex("vroundps", 256, [this.#dst(reg), this.#vm(args[0])], op === "round" ? 8 : 9);
      case "fma":
      case "fnma":
        return this.#fma(instruction, reg);
      case "compare": {
        const a = this.#v(args[0]);
        const b = this.#vm(args[1]);
        const comparison = instruction.comparison!;
        if (instruction.imm === 0) return asm.vex("vcmpps", 256, [this.#dst(reg), a, b], PREDICATES[comparison]);
        return asm.vex(comparison === "eq" ? "vpcmpeqd" : "vpcmpgtd", 256, [this.#dst(reg), a, b]);
      }
      case "select": {
        const [mask, yes, no] = args.map((arg) => this.#v(arg));
        return asm.vex("vblendvps", 256, [this.#dst(reg), no, yes, mask]);
      }
      case "convert": {
        const from = args[0] as Reg;
        const d = this.#dst(reg);
        if (isGeneral(from)) {
          asm.vex("vxorps", 128, [d, d, d]);
          return asm.vex("vcvtsi2ss", 0, [d, d, this.#g(from)]);
        }
        return asm.vex(type === "vf" ? "vcvtdq2ps" : "vcvtps2dq", 256, [d, this.#vm(from)]);
      }
      case "splat": {
        const d = this.#dst(reg);
        if (!isGeneral(args[0] as Reg)) return asm.vex("vbroadcastss", 256, [d, this.#v(args[0])]);
        asm.vex("vmovd", 128, [d, this.#g(args[0] as Reg)]);
        return asm.vex("vpbroadcastd", 256, [d, d]);
      }
      case "lanes":
        return asm.vex("vmovups", 256, [this.#dst(reg), this.#lanes(instruction.imm!)]);
      case "broadcast": {
        const d = this.#dst(reg);
        const memory = this.#memory(instruction.address!);
        if (instruction.element === "f32") return asm.vex("vbroadcastss", 256, [d, memory]);
        if (instruction.element !== "bf16") throw new TypeError(`x64 emitter: no broadcast of ${instruction.element}`);
        // Both halves of a lane hold the number; the shift leaves it in the upper one.
        asm.vex("vpbroadcastw", 256, [d, memory]);
        return asm.vex("vpslld", 256, [d, d], 16);
      }
      case "unpack": {
        const a = this.#v(args[0]);
        return asm.vex(UNPACKS[instruction.imm!], 256, [this.#dst(reg), a, this.#vm(args[1])]);
      }
      case "reduce": {
        const [vector, scalar] = REDUCTIONS[instruction.imm!];
        const a = this.#v(args[0]);
        const t = this.#v(this.#temporaries.get(instruction)![0]);
        const d = this.#dst(reg);
        asm.vex("vextractf128", 256, [t, a], 1);
        asm.vex(vector, 128, [d, a, t]);
        asm.vex("vmovhlps", 128, [t, d, d]);
        asm.vex(vector, 128, [d, d, t]);
        asm.vex("vmovshdup", 128, [t, d]);
        return asm.vex(scalar, 0, [d, d, t]);
      }
      default:
        throw new TypeError(`x64 emitter: no ${op} of ${type}`);
    }
  }

  /** Picks the form whose overwritten operand is the result's register; only the last operand may be memory. */
  #fma({ op, args }: Instruction, reg: Reg) {
    const asm = this.#asm;
    const suffix = reg.type === "f32" ? "ss" : "ps";
    const name = (order: "132" | "213" | "231") => `v${op === "fma" ? "fmadd" : "fnmadd"}${order}${suffix}` as VexName;
    const [a, b, c] = args;
    const x = this.#v(a);
    const y = this.#vm(b);
    const z = this.#vm(c);
    const d = this.#dst(reg);
    const copy = (from: Operand): void => {
      if (d !== from) asm.vex(typeof from === "number" ? "vmovaps" : "vmovups", 256, [d, from]);
    };
    if (typeof z !== "number") {
      // d = d·y + [z]
      if (typeof y === "number") {
        if (d === y) return asm.vex(name("213"), 256, [d, x, z]);
        copy(x);
        return asm.vex(name("213"), 256, [d, y, z]);
      }
      if (d !== x) {
        copy(y);
        return asm.vex(name("213"), 256, [d, x, z]);
      }
      const scratch = this.#vectorScratchFor(d);
      asm.vex("vmovups", 256, [scratch, y]);
      return asm.vex(name("213"), 256, [d, scratch, z]);
    }
    if (d === z) return asm.vex(name("231"), 256, [d, x, y]);
    if (d === x) {
      if (typeof y === "number") return asm.vex(name("213"), 256, [d, y, z]);
      return asm.vex(name("132"), 256, [d, z, y]);
    }
    if (d === y) return asm.vex(name("213"), 256, [d, x, z]);
    copy(z);
    return asm.vex(name("231"), 256, [d, x, y]);
  }

  #vectorScratchFor(d: number): number {
    if (this.#vector.slots.size === 0)
      throw new Error("x64 emitter: two constants in one multiply-add need a register");
    let scratch = VECTORS.at(-1 - this.#vectorScratch++)!;
    if (scratch === d) scratch = VECTORS.at(-1 - this.#vectorScratch++)!;
    return scratch;
  }

  /** `d` all ones in lanes below `count`. */
  #mask(d: number, count: Reg): void {
    const asm = this.#asm;
    asm.vex("vmovd", 128, [d, this.#g(count)]);
    asm.vex("vpbroadcastd", 256, [d, d]);
    asm.vex("vpcmpgtd", 256, [d, d, this.#lanes(0)]);
  }

  #loadBlock(instruction: Instruction, reg: Reg) {
    const block = instruction.imm!;
    const d = this.#dst(reg);
    if (block === 0) return this.#vectorLoad(instruction, reg, d, 128);
    const others = this.#v(instruction.args[0]);
    const t = this.#v(this.#temporaries.get(instruction)!.at(-1)!);
    if (instruction.count || ELEMENT_BYTES[instruction.element!] < 4) {
      this.#vectorLoad(instruction, reg, t, 128);
      return this.#asm.vex("vinsertf128", 256, [d, others, t], block);
    }
    // vinsertf128 from memory would do, but takes two slots of the shuffle units of AMD's cores.
    this.#asm.vex("vbroadcastf128", 256, [t, this.#memory(instruction.address!)]);
    return this.#asm.vex("vblendps", 256, [d, others, t], 0xf0);
  }

  /** Loads into machine register `d` what `reg` stands for. */
  #vectorLoad(instruction: Instruction, reg: Reg, d: number, length: 128 | 256) {
    const asm = this.#asm;
    const element = instruction.element!;
    const memory = this.#memory(instruction.address!);
    if (reg.type === "f32") {
      if (element === "f32") return asm.vex("vmovss", 0, [d, memory]);
      if (element !== "bf16") throw new TypeError(`x64 emitter: no load of one ${element} as f32`);
      asm.vex("vpbroadcastw", 128, [d, memory]);
      return asm.vex("vpslld", 128, [d, d], 16);
    }
    let source: Operand = memory;
    const { count } = instruction;
    if (ELEMENT_BYTES[element] === 4) {
      if (count) {
        const mask = this.#v(this.#temporaries.get(instruction)![0]);
        this.#mask(mask, count);
        asm.vex("vmaskmovps", length, [d, mask, memory]);
      } else asm.vex("vmovups", length, [d, memory]);
    } else if (count) {
      this.#gather(d, memory, this.#g(count), ELEMENT_BYTES[element] as 1 | 2, length / 32);
      source = d;
    }
    const asFloat = reg.type === "vf";
    switch (element) {
      case "f32":
        return;
      case "i32":
        if (asFloat) asm.vex("vcvtdq2ps", length, [d, d]);
        return;
      case "bf16":
        asm.vex("vpmovzxwd", length, [d, source]);
        if (asFloat) asm.vex("vpslld", length, [d, d], 16);
        return;
      case "i64":
        throw new TypeError("x64 emitter: no vectors of i64");
      default: {
        const extend = { i8: "vpmovsxbd", u8: "vpmovzxbd", i16: "vpmovsxwd", u16: "vpmovzxwd" } as const;
        asm.vex(extend[element], length, [d, source]);
        if (asFloat) asm.vex("vcvtdq2ps", length, [d, d]);
      }
    }
  }

  /** Reads `count` narrow elements one by one: there is no masked load of them. */
  #gather(d: number, memory: Memory, count: number, bytes: 1 | 2, lanes: number): void {
    const end = this.#label();
    this.#asm.vex("vxorps", 128, [d, d, d]);
    for (let i = 0; i < lanes; i++) {
      this.#asm.arithmeticImmediate("cmp", count, i);
      this.#asm.jump("le", end);
      const from = { ...memory, disp: memory.disp! + i * bytes };
      this.#asm.vex(bytes === 1 ? "vpinsrb" : "vpinsrw", 128, [d, d, from], i);
    }
    this.#asm.bind(end);
  }

  #store(instruction: Instruction) {
    const asm = this.#asm;
    const value = instruction.args[0] as Reg;
    const element = instruction.element!;
    const memory = this.#memory(instruction.address!);
    const bytes = ELEMENT_BYTES[element];
    if (isGeneral(value)) return asm.store(memory, this.#g(value), bytes);
    const source = this.#v(value);
    if (value.type === "f32") return asm.vex("vmovss_store", 0, [memory, source]);
    const { count } = instruction;
    const temporary = this.#temporaries.get(instruction);
    if (bytes === 4) {
      if (!count) return asm.vex("vmovups_store", 256, [memory, source]);
      const mask = this.#v(temporary![0]);
      this.#mask(mask, count);
      return asm.vex("vmaskmovps_store", 256, [memory, mask, source]);
    }
    const t = this.#v(temporary![0]);
    asm.vex("vpackusdw", 256, [t, source, source]);
    asm.vex("vpermq", 256, [t, t], 0x08);
    if (!count) return asm.vex("vmovups_store", 128, [memory, t]);
    const end = this.#label();
    const n = this.#g(count);
    for (let i = 0; i < 8; i++) {
      asm.arithmeticImmediate("cmp", n, i);
      asm.jump("le", end);
      asm.vex("vpextrw", 128, [{ ...memory, disp: memory.disp! + i * 2 }, t], i);
    }
    asm.bind(end);
  }
}

/** The temporaries an instruction takes. */
function needs(instruction: Instruction): Type[] {
  const { op, count, element, args } = instruction;
  if (op === "reduce") return ["vf"];
  if ((op === "load" || op === "loadBlock") && count && ELEMENT_BYTES[element!] === 4) return ["vf"];
  if (op === "loadBlock" && instruction.imm! > 0) return ["vf"];
  if (op === "store" && (args[0] as Reg).type !== "index" && (count || ELEMENT_BYTES[element!] === 2)) return ["vf"];
  if ((op === "min" || op === "max") && instruction.dst?.type === "index" && args[1].kind === "immediate")
    return ["index"];
  return [];
}

/** Whether the result is written while operands are still to be read, so that it needs a place of its own. */
function isEarly({ op }: Instruction): boolean {
  return op === "exchange";
}
