/** What is common to all vector units of x86-64: control flow, general registers, the frame, the places of values. */

import type { Label } from "../asm/label.ts";
import { Assembler, type ConditionName, GPR, type Memory } from "../asm/x64.ts";
import type { Address, Comparison, Condition, Instruction, KernelCode, Reg } from "../lang/ir.ts";
import { ELEMENT_BYTES } from "../lang/ir.ts";
import { isGeneral, type MachineCode, RegisterEmitter } from "./register-emitter.ts";

export { isGeneral, type MachineCode } from "./register-emitter.ts";

/** Who saves which registers, and where the argument arrives. */
export type Abi = "sysv" | "win64";

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

/** The registers a unit has for vectors, and for truth values where those have registers of their own. */
export interface VectorUnit {
  /** Bytes of a whole vector. */
  readonly bytes: 32 | 64;
  readonly registers: readonly number[];
  readonly masks: readonly number[];
}

const CONDITIONS: { readonly [C in Comparison]: ConditionName } = {
  lt: "l",
  le: "le",
  eq: "e",
  ne: "ne",
  gt: "g",
  ge: "ge",
};

export abstract class X64Emitter extends RegisterEmitter {
  protected readonly asm: Assembler;
  protected readonly abi: (typeof ABIS)[Abi];
  protected readonly unit: VectorUnit;
  protected readonly vectorSlots: number;
  /** The register whose comparison with 0 the flags hold, straight after arithmetic. */
  protected flags: Reg | undefined;

  constructor(code: KernelCode, abi: Abi, listing: boolean, unit: VectorUnit) {
    const { registers: general, parameters } = ABIS[abi];
    super(code, { general, vectors: unit.registers, masks: unit.masks, parameters });
    this.unit = unit;
    this.asm = new Assembler({ listing });
    this.abi = ABIS[abi];
    this.vectorSlots = this.general.slots.size * 8;
  }

  run(): MachineCode {
    const asm = this.asm;
    const { general, vectors } = this.used();
    const saved = this.abi.saved.filter((reg) => general.has(reg));
    for (const reg of this.keepConstants(this.unit.registers.filter((reg) => !vectors.has(reg)))) vectors.add(reg);
    const savedVectors = this.abi.savedVectors.filter((reg) => vectors.has(reg));
    const savedAt = this.vectorSlots + this.vector.slots.size * this.unit.bytes;
    const frame = savedAt + savedVectors.length * 16;

    asm.comment(this.code.name);
    for (const reg of saved) asm.push(reg);
    if (frame) asm.arithmeticImmediate("sub", rsp, frame);
    savedVectors.forEach((reg, i) => {
      asm.vex("vmovups_store", 128, [{ base: rsp, disp: savedAt + i * 16 }, reg]);
    });
    // Nothing lives before the parameters, so each has the register it arrives in, or a stack slot.
    this.code.parameters.forEach((reg, i) => {
      // Numbers of items come as 32 bits; what the upper half holds is undefined.
      if (i > 0) asm.extend32(this.abi.parameters[i], this.abi.parameters[i]);
      if (this.general.slots.has(reg)) asm.store(this.slot(reg), this.abi.parameters[i], 8);
    });

    this.loadConstants();
    this.nodes(this.code.body);

    asm.vzeroupper();
    savedVectors.forEach((reg, i) => {
      asm.vex("vmovups", 128, [reg, { base: rsp, disp: savedAt + i * 16 }]);
    });
    if (frame) asm.arithmeticImmediate("add", rsp, frame);
    for (const reg of saved.toReversed()) asm.pop(reg);
    asm.ret();
    return { code: asm.finish(), listing: asm.listing };
  }

  /** Chooses constants that stay in registers nobody else takes; gives the registers taken. */
  protected keepConstants(_free: readonly number[]): readonly number[] {
    return [];
  }

  /** Fills those registers, before anything else. */
  protected loadConstants(): void {}

  // ---- control ----

  protected override comment(text: string): void {
    this.asm.comment(text);
  }

  protected override alignLoop(): void {
    this.asm.align(32);
  }

  protected override jump(target: Label): void {
    this.asm.jump("always", target);
  }

  protected override bind(label: Label): void {
    this.flags = undefined;
    this.asm.bind(label);
  }

  protected override branch({ comparison, left, right }: Condition, target: Label): void {
    const zero = right.kind === "immediate" && right.value === 0;
    if (!(zero && this.flags === left && (comparison === "ne" || comparison === "eq"))) {
      const a = this.g(left);
      if (right.kind === "reg") this.asm.arithmetic("cmp", a, this.g(right));
      else this.asm.arithmeticImmediate("cmp", a, right.value);
    }
    this.flags = undefined;
    this.release();
    this.asm.jump(CONDITIONS[comparison], target);
  }

  // ---- places ----

  protected slot(reg: Reg): Memory {
    const slot = this.general.slots.get(reg);
    if (slot !== undefined) return { base: rsp, disp: slot * 8 };
    return { base: rsp, disp: this.vectorSlots + this.vector.slots.get(reg)! * this.unit.bytes };
  }

  protected override loadGeneral(register: number, from: Reg): void {
    this.asm.load(register, this.slot(from), 8);
  }

  protected override storeGeneral(to: Reg, register: number): void {
    this.asm.store(this.slot(to), register, 8);
  }

  protected override loadVector(register: number, from: Reg): void {
    this.moveFromStack(register, this.slot(from));
  }

  protected override storeVector(to: Reg, register: number): void {
    this.moveToStack(this.slot(to), register);
  }

  protected memory({ base, index, scale, disp }: Address, extra = 0): Memory {
    return { base: this.g(base), index: index && this.g(index), scale, disp: disp + extra };
  }

  // ---- instructions ----

  protected override instruction(instruction: Instruction): void {
    const { dst, op } = instruction;
    this.flags = undefined;
    if (dst && isGeneral(dst)) this.generalOp(instruction, dst);
    else if (op === "load") this.vectorLoad(instruction, dst!, this.dst(dst!), this.unit.bytes === 32 ? 256 : 512);
    else if (op === "loadBlock") this.loadBlock(instruction, dst!);
    else if (op === "store") this.store(instruction);
    else if (op === "prefetch")
      this.asm.prefetch(instruction.imm === 1 ? "t0" : "t1", this.memory(instruction.address!));
    else this.vectorOp(instruction, dst!);
  }

  protected generalOp(instruction: Instruction, reg: Reg) {
    const asm = this.asm;
    const { op, args } = instruction;
    if (op === "load") {
      const element = instruction.element!;
      const signed = element !== "u8" && element !== "u16" && element !== "bf16";
      const memory = this.memory(instruction.address!);
      return asm.load(this.dst(reg), memory, ELEMENT_BYTES[element], signed);
    }
    if (op === "const") {
      const value = (args[0] as { value: number }).value;
      if (value === 0) return asm.arithmetic("xor", this.dst(reg), this.dst(reg), 32);
      return asm.moveImmediate(this.dst(reg), value);
    }
    if (op === "exchange") {
      const value = this.g(args[0] as Reg);
      const memory = this.memory(instruction.address!);
      const d = this.general.places.get(reg) ?? value;
      if (d !== value) asm.move(d, value);
      asm.exchange(memory, d);
      if (d !== this.dst(reg)) asm.move(this.dst(reg), d);
      return;
    }
    const a = this.g(args[0] as Reg);
    const b = args.length < 2 ? -1 : args[1].kind === "reg" ? this.g(args[1]) : undefined;
    const d = this.dst(reg);
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
        this.flags = reg;
        if (b === undefined) return asm.arithmeticImmediate("add", d, value);
        return asm.arithmetic("add", d, d === a ? b : a);
      case "sub":
        if (b === undefined && d !== a) return asm.lea(d, { base: a, disp: -value });
        if (b !== undefined && d === b && d !== a) {
          asm.negate(d);
          return asm.arithmetic("add", d, a);
        }
        copy();
        this.flags = reg;
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
          other = this.g(this.temporaries.get(instruction)![0]);
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

  // ---- what a vector unit adds ----

  /** An instruction whose result is no integer, or a store or prefetch of vectors. */
  protected abstract vectorOp(instruction: Instruction, reg: Reg): void;
  protected abstract vectorLoad(instruction: Instruction, reg: Reg, d: number, length: 128 | 256 | 512): void;
  protected abstract loadBlock(instruction: Instruction, reg: Reg): void;
  protected abstract store(instruction: Instruction): void;
  protected abstract moveFromStack(register: number, from: Memory): void;
  protected abstract moveToStack(to: Memory, register: number): void;
}
