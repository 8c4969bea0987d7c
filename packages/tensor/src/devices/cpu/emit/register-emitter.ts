/** What is common to all register machines: walking a kernel's code, and where its values lie. */

import { Label } from "../asm/label.ts";
import type { Condition, Instruction, KernelCode, Node, Operand, Reg, Type } from "../lang/ir.ts";
import { negate } from "../lang/ir.ts";
import { type Allocation, allocate } from "./allocate.ts";
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
  /** Where a kernel's three parameters arrive. */
  readonly parameters: readonly number[];
}

/** Registers of each kind, from the end, that serve values on the stack once there are any. */
export const SCRATCH = 3;

export const isGeneral = (reg: Reg): boolean => reg.type === "index";

export abstract class RegisterEmitter {
  protected readonly code: KernelCode;
  protected readonly registers: Registers;
  protected readonly general: Allocation;
  protected readonly vector: Allocation;
  readonly #temporaries = new Map<Instruction, Reg[]>();
  #labels = 0;
  #generalScratch = 0;
  #vectorScratch = 0;

  constructor(code: KernelCode, registers: Registers) {
    this.code = code;
    this.registers = registers;
    let next = localize(code);
    const live = liveness(code, (instruction) => {
      const temporaries: Reg[] = this.needs(instruction).map((type) => ({ kind: "reg", id: next++, type }));
      if (temporaries.length) this.#temporaries.set(instruction, temporaries);
      return { temporaries, early: this.isEarly(instruction) };
    });
    const fixed = new Map<Reg, number>(code.parameters.map((reg, i) => [reg, registers.parameters[i]]));
    const general = { registers: registers.general, scratch: SCRATCH };
    this.general = allocate(code.name, live, general, isGeneral, fixed);
    const vectors = { registers: registers.vectors, scratch: SCRATCH };
    this.vector = allocate(code.name, live, vectors, (reg) => !isGeneral(reg));
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
        this.bindLoop(start, !node.body.some((inner) => inner.kind === "loop"));
        this.nodes(node.body);
        this.branch(node.condition, start);
      }
    }
  }

  // ---- places ----

  protected temporary(instruction: Instruction, i = 0): number {
    return this.v(this.#temporaries.get(instruction)![i]);
  }

  protected release(): void {
    this.#generalScratch = 0;
    this.#vectorScratch = 0;
  }

  /** The general register that holds a value, loaded from the stack if it lives there. */
  protected g(reg: Reg): number {
    const place = this.general.places.get(reg);
    if (place !== undefined) return place;
    const scratch = this.registers.general.at(-1 - this.#generalScratch++)!;
    this.loadGeneral(scratch, this.general.slots.get(reg)!);
    return scratch;
  }

  /** The vector register that holds a value. */
  protected v(operand: Operand): number {
    const place = this.vector.places.get(operand as Reg);
    if (place !== undefined) return place;
    const scratch = this.registers.vectors.at(-1 - this.#vectorScratch++)!;
    this.loadVector(scratch, this.vector.slots.get(operand as Reg)!);
    return scratch;
  }

  /** Where a result goes; one that lives on the stack is stored afterwards. */
  protected dst(reg: Reg): number {
    const general = isGeneral(reg);
    const { places } = general ? this.general : this.vector;
    return places.get(reg) ?? (general ? this.registers.general : this.registers.vectors).at(-1)!;
  }

  #done(reg: Reg): void {
    const general = this.general.slots.get(reg);
    const vector = this.vector.slots.get(reg);
    if (general !== undefined) this.storeGeneral(this.dst(reg), general);
    else if (vector !== undefined) this.storeVector(this.dst(reg), vector);
  }

  // ---- what a machine adds ----

  /** The temporaries an instruction takes. */
  protected abstract needs(instruction: Instruction): Type[];
  /** Whether the result is written while operands are still to be read, so that it needs a place of its own. */
  protected abstract isEarly(instruction: Instruction): boolean;
  protected abstract comment(text: string): void;
  protected abstract bind(label: Label): void;
  /** Binds the start of a loop; `innermost` ones may be aligned. */
  protected abstract bindLoop(label: Label, innermost: boolean): void;
  protected abstract jump(target: Label): void;
  protected abstract branch(condition: Condition, target: Label): void;
  protected abstract instruction(instruction: Instruction): void;
  /** Between a register and a stack slot, by number. */
  protected abstract loadGeneral(register: number, slot: number): void;
  protected abstract storeGeneral(register: number, slot: number): void;
  protected abstract loadVector(register: number, slot: number): void;
  protected abstract storeVector(register: number, slot: number): void;
}
