/** What is common to all vector units of x86-64: control flow, general registers, the frame, the places of values. */

import { Assembler, type ConditionName, GPR, Label, type Memory } from "../asm/x64.ts";
import type {
  Address,
  Comparison,
  Condition,
  Instruction,
  Operand as IrOperand,
  KernelCode,
  Node,
  Reg,
  Type,
} from "../lang/ir.ts";
import { ELEMENT_BYTES, negate } from "../lang/ir.ts";
import { type Allocation, allocate, RegisterPressureError } from "./allocate.ts";
import { liveness, localize } from "./prepare.ts";

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
const SCRATCH = 3;

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
export const isGeneral = (reg: Reg): boolean => reg.type === "index";

export abstract class X64Emitter {
  protected readonly code: KernelCode;
  protected readonly asm: Assembler;
  protected readonly abi: (typeof ABIS)[Abi];
  protected readonly temporaries = new Map<Instruction, Reg[]>();
  protected readonly general: Allocation;
  protected readonly vector: Allocation;
  /** Truth values, where they have registers of their own; these are never spilled. */
  protected readonly masks: Allocation;
  protected readonly unit: VectorUnit;
  protected readonly vectorSlots: number;
  protected labels = 0;
  protected generalScratch = 0;
  protected vectorScratch = 0;
  /** The register whose comparison with 0 the flags hold, straight after arithmetic. */
  protected flags: Reg | undefined;

  constructor(code: KernelCode, abi: Abi, listing: boolean, unit: VectorUnit) {
    this.unit = unit;
    this.code = code;
    this.asm = new Assembler({ listing });
    this.abi = ABIS[abi];
    let next = localize(code);
    const live = liveness(code, (instruction) => {
      const temporaries: Reg[] = this.needs(instruction).map((type) => ({ kind: "reg", id: next++, type }));
      if (temporaries.length) this.temporaries.set(instruction, temporaries);
      return { temporaries, early: isEarly(instruction) };
    });
    const fixed = new Map<Reg, number>(code.parameters.map((reg, i) => [reg, this.abi.parameters[i]]));
    const general = { registers: this.abi.registers, scratch: SCRATCH };
    this.general = allocate(code.name, live, general, isGeneral, fixed);
    const inMask = (reg: Reg) => unit.masks.length > 0 && reg.type === "vb";
    const vectors = { registers: unit.registers, scratch: SCRATCH };
    this.vector = allocate(code.name, live, vectors, (reg) => !isGeneral(reg) && !inMask(reg));
    this.masks = allocate(code.name, live, { registers: unit.masks, scratch: 0 }, inMask);
    if (this.masks.slots.size) throw new RegisterPressureError(`kernel ${code.name}: too many truth values at once`);
    this.vectorSlots = this.general.slots.size * 8;
  }

  run(): MachineCode {
    const asm = this.asm;
    const used = new Set(this.general.places.values());
    if (this.general.slots.size) for (const reg of this.abi.registers.slice(-SCRATCH)) used.add(reg);
    const saved = this.abi.saved.filter((reg) => used.has(reg));
    const usedVectors = new Set(this.vector.places.values());
    if (this.vector.slots.size) for (const reg of this.unit.registers.slice(-SCRATCH)) usedVectors.add(reg);
    for (const reg of this.keepConstants(this.unit.registers.filter((reg) => !usedVectors.has(reg)))) {
      usedVectors.add(reg);
    }
    const savedVectors = this.abi.savedVectors.filter((reg) => usedVectors.has(reg));
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

  protected label(): Label {
    return new Label(`L${this.labels++}`);
  }

  protected nodes(nodes: readonly Node[]): void {
    for (const node of nodes) {
      if (node.kind === "comment") this.asm.comment(node.text);
      else if (node.kind === "op") this.instruction(node);
      else if (node.kind === "if") {
        const otherwise = this.label();
        this.branch({ ...node.condition, comparison: negate[node.condition.comparison] }, otherwise);
        this.nodes(node.yes);
        if (node.no.length) {
          const end = this.label();
          this.asm.jump("always", end);
          this.bind(otherwise);
          this.nodes(node.no);
          this.bind(end);
        } else this.bind(otherwise);
      } else {
        const start = this.label();
        if (!node.body.some((inner) => inner.kind === "loop")) this.asm.align(32);
        this.bind(start);
        this.nodes(node.body);
        this.branch(node.condition, start);
      }
    }
  }

  protected bind(label: Label): void {
    this.flags = undefined;
    this.asm.bind(label);
  }

  protected branch({ comparison, left, right }: Condition, target: Label): void {
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

  protected release(): void {
    this.generalScratch = 0;
    this.vectorScratch = 0;
  }

  /** The general register that holds a value, loaded from the stack if it lives there. */
  protected g(reg: Reg): number {
    const place = this.general.places.get(reg);
    if (place !== undefined) return place;
    const scratch = this.abi.registers.at(-1 - this.generalScratch++)!;
    this.asm.load(scratch, this.slot(reg), 8);
    return scratch;
  }

  protected v(operand: IrOperand): number {
    const place = this.vector.places.get(operand as Reg);
    if (place !== undefined) return place;
    const scratch = this.unit.registers.at(-1 - this.vectorScratch++)!;
    this.moveFromStack(scratch, this.slot(operand as Reg));
    return scratch;
  }

  /** Where a result goes; a spilled one is stored by `done`. */
  protected dst(reg: Reg): number {
    const mask = this.masks.places.get(reg);
    if (mask !== undefined) return mask;
    const { places } = isGeneral(reg) ? this.general : this.vector;
    return places.get(reg) ?? (isGeneral(reg) ? this.abi.registers.at(-1)! : this.unit.registers.at(-1)!);
  }

  protected done(reg: Reg): void {
    if (this.general.slots.has(reg)) this.asm.store(this.slot(reg), this.dst(reg), 8);
    else if (this.vector.slots.has(reg)) this.moveToStack(this.slot(reg), this.dst(reg));
  }

  protected memory({ base, index, scale, disp }: Address, extra = 0): Memory {
    return { base: this.g(base), index: index && this.g(index), scale, disp: disp + extra };
  }

  // ---- instructions ----

  protected instruction(instruction: Instruction): void {
    const { dst, op } = instruction;
    this.flags = undefined;
    if (dst && isGeneral(dst)) this.generalOp(instruction, dst);
    else if (op === "load") this.vectorLoad(instruction, dst!, this.dst(dst!), this.unit.bytes === 32 ? 256 : 512);
    else if (op === "loadBlock") this.loadBlock(instruction, dst!);
    else if (op === "store") this.store(instruction);
    else if (op === "prefetch") this.asm.prefetch("t1", this.memory(instruction.address!));
    else this.vectorOp(instruction, dst!);
    this.release();
    if (dst) this.done(dst);
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
  /** The temporaries an instruction takes. */
  protected abstract needs(instruction: Instruction): Type[];
}

/** Whether the result is written while operands are still to be read, so that it needs a place of its own. */
function isEarly({ op }: Instruction): boolean {
  return op === "exchange";
}
