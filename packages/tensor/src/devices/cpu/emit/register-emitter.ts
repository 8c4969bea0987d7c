/** What is common to all register machines: walking a kernel's code, and where its values lie. */

import { Label } from "../asm/label.ts";
import type { Condition, Instruction, KernelCode, Node, Operand, Reg, Type } from "../lang/ir.ts";
import { negate } from "../lang/ir.ts";
import { type Allocation, allocate, RegisterPressureError } from "./allocate.ts";
import { liveness, localize } from "./prepare.ts";

export interface MachineCode {
  readonly code: Uint8Array<ArrayBuffer>;
  /** GNU assembler text, when it was asked for. */
  readonly listing: readonly string[];
}

/** The registers that values may take, in order of preference. */
export interface Registers {
  readonly general: readonly number[];
  readonly vectors: readonly number[];
  /** Of truth values, where those have registers of their own. */
  readonly masks?: readonly number[];
  /** Where a kernel's three parameters arrive. */
  readonly parameters: readonly number[];
}

/** Registers of each kind, from the end, that serve values on the stack once there are any. */
export const SCRATCH = 3;

export const isGeneral = (reg: Reg): boolean => reg.type === "index";

export abstract class RegisterEmitter {
  protected readonly code: KernelCode;
  protected readonly registers: Registers;
  protected readonly temporaries = new Map<Instruction, Reg[]>();
  protected readonly general: Allocation;
  protected readonly vector: Allocation;
  /** Truth values, where they have registers of their own; these are never spilled. */
  protected readonly masks: Allocation;
  protected generalScratch = 0;
  protected vectorScratch = 0;
  #labels = 0;

  constructor(code: KernelCode, registers: Registers) {
    this.code = code;
    this.registers = registers;
    let next = localize(code);
    const live = liveness(code, (instruction) => {
      const temporaries: Reg[] = this.needs(instruction).map((type) => ({ kind: "reg", id: next++, type }));
      if (temporaries.length) this.temporaries.set(instruction, temporaries);
      return { temporaries, early: isEarly(instruction) };
    });
    const fixed = new Map<Reg, number>(code.parameters.map((reg, i) => [reg, registers.parameters[i]]));
    const general = { registers: registers.general, scratch: SCRATCH };
    this.general = allocate(code.name, live, general, isGeneral, fixed);
    const masks = registers.masks ?? [];
    const inMask = (reg: Reg) => masks.length > 0 && reg.type === "vb";
    const vectors = { registers: registers.vectors, scratch: SCRATCH };
    this.vector = allocate(code.name, live, vectors, (reg) => !isGeneral(reg) && !inMask(reg));
    this.masks = allocate(code.name, live, { registers: masks, scratch: 0 }, inMask);
    if (this.masks.slots.size) throw new RegisterPressureError(`kernel ${code.name}: too many truth values at once`);
  }

  /** The machine registers of both kinds that the code writes. */
  protected used(): { general: Set<number>; vectors: Set<number> } {
    const all = (allocation: Allocation, registers: readonly number[]) =>
      new Set([...allocation.places.values(), ...(allocation.slots.size ? registers.slice(-SCRATCH) : [])]);
    return {
      general: all(this.general, this.registers.general),
      vectors: all(this.vector, this.registers.vectors),
    };
  }

  // ---- control ----

  protected label(): Label {
    return new Label(`L${this.#labels++}`);
  }

  protected nodes(nodes: readonly Node[]): void {
    for (const node of nodes) {
      if (node.kind === "comment") this.comment(node.text);
      else if (node.kind === "op") {
        this.instruction(node);
        this.release();
        if (node.dst) this.#done(node.dst);
      } else if (node.kind === "if") {
        const otherwise = this.label();
        this.branch({ ...node.condition, comparison: negate[node.condition.comparison] }, otherwise);
        this.nodes(node.yes);
        if (node.no.length) {
          const end = this.label();
          this.jump(end);
          this.bind(otherwise);
          this.nodes(node.no);
          this.bind(end);
        } else this.bind(otherwise);
      } else {
        const start = this.label();
        if (!node.body.some((inner) => inner.kind === "loop")) this.alignLoop();
        this.bind(start);
        this.nodes(node.body);
        this.branch(node.condition, start);
      }
    }
  }

  // ---- places ----

  protected release(): void {
    this.generalScratch = 0;
    this.vectorScratch = 0;
  }

  /** The register that brings an instruction's `i`th value from the stack. */
  protected scratch(registers: readonly number[], i: number): number {
    if (i < SCRATCH) return registers.at(-1 - i)!;
    throw new RegisterPressureError(
      `kernel ${this.code.name}: an instruction has more than ${SCRATCH} values on the stack`,
    );
  }

  /** The general register that holds a value, loaded from the stack if it lives there. */
  protected g(reg: Reg): number {
    const place = this.general.places.get(reg);
    if (place !== undefined) return place;
    const scratch = this.scratch(this.registers.general, this.generalScratch++);
    this.loadGeneral(scratch, reg);
    return scratch;
  }

  /** The vector register that holds a value, loaded from the stack if it lives there. */
  protected v(operand: Operand): number {
    const place = this.vector.places.get(operand as Reg);
    if (place !== undefined) return place;
    const scratch = this.scratch(this.registers.vectors, this.vectorScratch++);
    this.loadVector(scratch, operand as Reg);
    return scratch;
  }

  protected temporary(instruction: Instruction, i = 0): number {
    return this.v(this.temporaries.get(instruction)![i]);
  }

  /** Where a result goes; one that lives on the stack is stored afterwards. */
  protected dst(reg: Reg): number {
    const general = isGeneral(reg);
    const place = this.masks.places.get(reg) ?? (general ? this.general : this.vector).places.get(reg);
    return place ?? (general ? this.registers.general : this.registers.vectors).at(-1)!;
  }

  #done(reg: Reg): void {
    if (this.general.slots.has(reg)) this.storeGeneral(reg, this.dst(reg));
    else if (this.vector.slots.has(reg)) this.storeVector(reg, this.dst(reg));
  }

  // ---- what a machine adds ----

  /** The temporaries an instruction takes. Called before the machine's own fields are there. */
  protected abstract needs(instruction: Instruction): Type[];
  protected abstract comment(text: string): void;
  protected abstract bind(label: Label): void;
  /** Before the start of an innermost loop. */
  protected abstract alignLoop(): void;
  protected abstract jump(target: Label): void;
  protected abstract branch(condition: Condition, target: Label): void;
  protected abstract instruction(instruction: Instruction): void;
  /** Between a machine register and the stack slot of a value. */
  protected abstract loadGeneral(register: number, from: Reg): void;
  protected abstract storeGeneral(to: Reg, register: number): void;
  protected abstract loadVector(register: number, from: Reg): void;
  protected abstract storeVector(to: Reg, register: number): void;
}

/** Whether the result is written while operands are still to be read, so that it needs a place of its own. */
function isEarly({ op }: Instruction): boolean {
  return op === "exchange";
}
