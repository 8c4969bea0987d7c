/** Vectors of 256 bits: AVX2 and FMA. */

import type { Memory, Operand } from "../asm/x64.ts";
import type { VexName } from "../asm/x64-table.ts";
import type {
  Comparison,
  Immediate,
  Instruction,
  Operand as IrOperand,
  KernelCode,
  Node,
  Op,
  Reg,
  Type,
} from "../lang/ir.ts";
import { ELEMENT_BYTES } from "../lang/ir.ts";
import { type Abi, isGeneral, X64Emitter } from "./x64-emitter.ts";

const UNIT = { bytes: 32, registers: Array.from({ length: 16 }, (_, i) => i), masks: [] } as const;

/** Shifts that bring the low half of each byte to the first 128 bits and the high half to the last. */
const HALVES = new Uint8Array(Int32Array.from([0, 0, 0, 0, 4, 4, 4, 4]).buffer);
const LOW_HALVES = new Uint8Array(32).fill(15);
/** 1 in every 16 bits. */
const ONES = new Uint8Array(Int16Array.from({ length: 16 }, () => 1).buffer);
/** The order in which twice packing leaves 32-bit words. */
const PACKED_ORDER = new Uint8Array(Int32Array.from([0, 4, 1, 5, 2, 6, 3, 7]).buffer);

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

/** All bytes of a vector constant. */
function bytesOf({ type, value, bytes }: Immediate): Uint8Array {
  if (bytes) return Uint8Array.from(bytes);
  return new Uint8Array((type === "vi" ? new Int32Array(8).fill(value) : new Float32Array(8).fill(value)).buffer);
}

/** The constants that an instruction's code reads whole. */
function constantsOf({ op, args }: Instruction): Uint8Array[] {
  if (op === "nibbles") return [HALVES, LOW_HALVES];
  if (op === "const" || op === "store") return [];
  const vectors = args.filter((arg): arg is Immediate => arg.kind === "immediate" && arg.type !== "index");
  const found = vectors.filter(({ type }) => type !== "f32").map(bytesOf);
  if (op === "dot") found.push(ONES);
  return found;
}

export class Avx2Emitter extends X64Emitter {
  constructor(code: KernelCode, abi: Abi, listing: boolean) {
    super(code, abi, listing, UNIT);
  }

  /** Constants that stay in a register, by their bytes. */
  readonly #kept = new Map<string, { readonly register: number; readonly bytes: Uint8Array }>();

  /** The constants that loops read most: a core loads only two vectors in a cycle. */
  protected override keepConstants(free: readonly number[]): readonly number[] {
    const uses = new Map<string, { bytes: Uint8Array; weight: number }>();
    const visit = (nodes: readonly Node[], weight: number): void => {
      for (const node of nodes) {
        if (node.kind === "loop") visit(node.body, weight === 0 ? 1 : 10 * weight);
        else if (node.kind === "if") {
          visit(node.yes, weight);
          visit(node.no, weight);
        } else if (node.kind === "op" && weight > 0) {
          for (const bytes of constantsOf(node)) {
            const key = bytes.join();
            const use = uses.get(key) ?? { bytes, weight: 0 };
            use.weight += weight;
            uses.set(key, use);
          }
        }
      }
    };
    visit(this.code.body, 0);
    const most = [...uses].sort(([, a], [, b]) => b.weight - a.weight).slice(0, free.length);
    most.forEach(([key, { bytes }], i) => {
      this.#kept.set(key, { register: free[i], bytes });
    });
    return free.slice(0, most.length);
  }

  protected override loadConstants(): void {
    for (const { register, bytes } of this.#kept.values()) {
      this.asm.vex("vmovups", 256, [register, { label: this.asm.constant(bytes) }]);
    }
  }

  /** A constant of a whole vector: the register that keeps it, or its place in the pool. */
  protected constant(bytes: Uint8Array): Operand {
    return this.#kept.get(bytes.join())?.register ?? { label: this.asm.constant(bytes) };
  }

  protected override moveFromStack(register: number, from: Memory): void {
    this.asm.vex("vmovups", 256, [register, from]);
  }

  protected override moveToStack(to: Memory, register: number): void {
    this.asm.vex("vmovups_store", 256, [to, register]);
  }

  protected override needs(instruction: Instruction): Type[] {
    const { op, count, element, args } = instruction;
    if (op === "reduce") return ["vf"];
    if (op === "packBytes" || (op === "dot" && instruction.imm === 1)) return ["vi"];
    if ((op === "load" || op === "loadBlock") && count && ELEMENT_BYTES[element!] === 4) return ["vf"];
    if (op === "loadBlock" && instruction.imm! > 0) return ["vf"];
    if (op === "store" && (args[0] as Reg).type !== "index" && (count || ELEMENT_BYTES[element!] === 2)) return ["vf"];
    if ((op === "min" || op === "max") && instruction.dst?.type === "index" && args[1].kind === "immediate")
      return ["index"];
    return [];
  }

  /** A vector operand that may be memory: a constant of the pool, or a spilled vector where it lies. */
  protected vm(operand: IrOperand): Operand {
    if (operand.kind === "immediate") return this.constant(bytesOf(operand));
    const place = this.vector.places.get(operand);
    return place ?? this.slot(operand);
  }

  /** A place in the pool that holds the number once. */
  protected pool(type: Type, value: number): Memory {
    const values = type === "vi" ? Int32Array.of(value) : Float32Array.of(value);
    return { label: this.asm.constant(new Uint8Array(values.buffer)) };
  }

  /** The numbers of the lanes plus `start`. */
  protected lanes(start: number): Memory {
    const numbers = Int32Array.from({ length: 8 }, (_, i) => start + i);
    return { label: this.asm.constant(new Uint8Array(numbers.buffer)) };
  }

  protected override vectorOp(instruction: Instruction, reg: Reg) {
    const asm = this.asm;
    const { op, args } = instruction;
    const type = reg.type as "vf" | "vi" | "vb" | "f32";
    const length = type === "f32" ? 128 : 256;
    const binary = VECTOR_OPS[type][op];
    if (binary) {
      const a = this.v(args[0]);
      return asm.vex(binary, length, [this.dst(reg), a, this.vm(args[1])]);
    }
    switch (op) {
      case "const": {
        const { value, bytes } = args[0] as Immediate;
        const d = this.dst(reg);
        if (bytes) return asm.vex("vmovups", 256, [d, this.vm(args[0])]);
        if (value === 0 && !Object.is(value, -0)) return asm.vex("vxorps", 128, [d, d, d]);
        if (type === "f32") return asm.vex("vmovss", 0, [d, this.pool(type, value)]);
        return asm.vex("vbroadcastss", 256, [d, this.pool(type, value)]);
      }
      case "first":
      case "move": {
        const a = this.v(args[0]);
        if (a !== this.dst(reg)) asm.vex("vmovaps", length, [this.dst(reg), a]);
        return;
      }
      case "shl":
      case "shr":
      case "sar": {
        const a = this.v(args[0]);
        return asm.vex(SHIFTS[op]!, 256, [this.dst(reg), a], (args[1] as { value: number }).value);
      }
      case "mulWide": {
        const [a, b] = args.map((arg) => this.v(arg));
        return asm.vex("vpmuludq", 256, [this.dst(reg), a!, b!]);
      }
      case "oddLanes":
        return asm.vex("vmovshdup", 256, [this.dst(reg), this.v(args[0])]);
      case "sqrt":
        if (type === "f32") {
          const a = this.v(args[0]);
          return asm.vex("vsqrtss", 0, [this.dst(reg), a, a]);
        }
        return asm.vex("vsqrtps", 256, [this.dst(reg), this.vm(args[0])]);
      case "round":
      case "floor":
        return asm.vex("vroundps", 256, [this.dst(reg), this.vm(args[0])], op === "round" ? 8 : 9);
      case "fma":
      case "fnma":
        return this.fma(instruction, reg);
      case "compare": {
        const a = this.v(args[0]);
        const b = this.vm(args[1]);
        const comparison = instruction.comparison!;
        if (instruction.imm === 0) return asm.vex("vcmpps", 256, [this.dst(reg), a, b], PREDICATES[comparison]);
        return asm.vex(comparison === "eq" ? "vpcmpeqd" : "vpcmpgtd", 256, [this.dst(reg), a, b]);
      }
      case "select": {
        const [mask, yes, no] = args.map((arg) => this.v(arg));
        return asm.vex("vblendvps", 256, [this.dst(reg), no, yes, mask]);
      }
      case "convert": {
        const from = args[0] as Reg;
        const d = this.dst(reg);
        if (isGeneral(from)) {
          asm.vex("vxorps", 128, [d, d, d]);
          return asm.vex("vcvtsi2ss", 0, [d, d, this.g(from)]);
        }
        return asm.vex(type === "vf" ? "vcvtdq2ps" : "vcvtps2dq", 256, [d, this.vm(from)]);
      }
      case "splat": {
        const d = this.dst(reg);
        if (!isGeneral(args[0] as Reg)) return asm.vex("vbroadcastss", 256, [d, this.v(args[0])]);
        asm.vex("vmovd", 128, [d, this.g(args[0] as Reg)]);
        return asm.vex("vpbroadcastd", 256, [d, d]);
      }
      case "lanes":
        return asm.vex("vmovups", 256, [this.dst(reg), this.lanes(instruction.imm!)]);
      case "broadcast": {
        const d = this.dst(reg);
        const memory = this.memory(instruction.address!);
        if (instruction.element === "f32" || instruction.element === "i32")
          return asm.vex("vbroadcastss", 256, [d, memory]);
        if (instruction.element === "f16") {
          asm.vex("vpbroadcastw", 128, [d, memory]);
          return asm.vex("vcvtph2ps", 256, [d, d]);
        }
        if (instruction.element !== "bf16") throw new TypeError(`x64 emitter: no broadcast of ${instruction.element}`);
        // Both halves of a lane hold the number; the shift leaves it in the upper one.
        asm.vex("vpbroadcastw", 256, [d, memory]);
        return asm.vex("vpslld", 256, [d, d], 16);
      }
      case "unpack": {
        const a = this.v(args[0]);
        return asm.vex(UNPACKS[instruction.imm!], 256, [this.dst(reg), a, this.vm(args[1])]);
      }
      case "broadcastBlock":
        return asm.vex("vbroadcastf128", 256, [this.dst(reg), this.memory(instruction.address!)]);
      case "nibbles": {
        const d = this.dst(reg);
        asm.vex("vbroadcastf128", 256, [d, this.memory(instruction.address!)]);
        asm.vex("vpsrlvd", 256, [d, d, this.constant(HALVES)]);
        return asm.vex("vpand", 256, [d, d, this.constant(LOW_HALVES)]);
      }
      case "shuffleBytes":
      case "equalBytes": {
        const a = this.v(args[0]);
        return asm.vex(op === "shuffleBytes" ? "vpshufb" : "vpcmpeqb", 256, [this.dst(reg), a, this.vm(args[1])]);
      }
      case "widenBytes":
        return asm.vex(instruction.imm === 1 ? "vpmovsxbd" : "vpmovzxbd", 256, [this.dst(reg), this.v(args[0])]);
      case "packBytes": {
        const [a, b, c, e] = args.map((arg) => this.v(arg));
        const t = this.v(this.temporaries.get(instruction)![0]);
        const d = this.dst(reg);
        asm.vex("vpackssdw", 256, [t, a, b]);
        asm.vex("vpackssdw", 256, [d, c, e]);
        asm.vex("vpacksswb", 256, [d, t, d]);
        // Packing works inside 128-bit blocks; this puts their words in order.
        asm.vex("vmovups", 256, [t, { label: asm.constant(PACKED_ORDER) }]);
        return asm.vex("vpermd", 256, [d, t, d]);
      }
      case "dot": {
        const [a, b] = args.map((arg) => this.v(arg));
        const d = this.dst(reg);
        if (instruction.imm === 1) {
          const t = this.v(this.temporaries.get(instruction)![0]);
          asm.vex("vpabsb", 256, [t, a]);
          asm.vex("vpsignb", 256, [d, b, a]);
          asm.vex("vpmaddubsw", 256, [d, t, d]);
        } else asm.vex("vpmaddubsw", 256, [d, a, b]);
        return asm.vex("vpmaddwd", 256, [d, d, this.constant(ONES)]);
      }
      case "reduce": {
        const [vector, scalar] = REDUCTIONS[instruction.imm!];
        const a = this.v(args[0]);
        const t = this.v(this.temporaries.get(instruction)![0]);
        const d = this.dst(reg);
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
  protected fma({ op, args }: Instruction, reg: Reg) {
    const asm = this.asm;
    const suffix = reg.type === "f32" ? "ss" : "ps";
    const name = (order: "132" | "213" | "231") => `v${op === "fma" ? "fmadd" : "fnmadd"}${order}${suffix}` as VexName;
    const [a, b, c] = args;
    const x = this.v(a);
    const y = this.vm(b);
    const z = this.vm(c);
    const d = this.dst(reg);
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
      const scratch = this.vectorScratchFor(d);
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

  protected vectorScratchFor(d: number): number {
    if (this.vector.slots.size === 0) throw new Error("x64 emitter: two constants in one multiply-add need a register");
    let scratch = this.unit.registers.at(-1 - this.vectorScratch++)!;
    if (scratch === d) scratch = this.unit.registers.at(-1 - this.vectorScratch++)!;
    return scratch;
  }

  /** `d` all ones in lanes below `count`. */
  protected mask(d: number, count: Reg): void {
    const asm = this.asm;
    asm.vex("vmovd", 128, [d, this.g(count)]);
    asm.vex("vpbroadcastd", 256, [d, d]);
    asm.vex("vpcmpgtd", 256, [d, d, this.lanes(0)]);
  }

  protected override loadBlock(instruction: Instruction, reg: Reg) {
    const block = instruction.imm!;
    const d = this.dst(reg);
    if (block === 0) return this.vectorLoad(instruction, reg, d, 128);
    const others = this.v(instruction.args[0]);
    const t = this.v(this.temporaries.get(instruction)!.at(-1)!);
    if (instruction.count || ELEMENT_BYTES[instruction.element!] < 4) {
      this.vectorLoad(instruction, reg, t, 128);
      return this.asm.vex("vinsertf128", 256, [d, others, t], block);
    }
    // vinsertf128 from memory would do, but takes two slots of the shuffle units of AMD's cores.
    this.asm.vex("vbroadcastf128", 256, [t, this.memory(instruction.address!)]);
    return this.asm.vex("vblendps", 256, [d, others, t], 0xf0);
  }

  /** Loads into machine register `d` what `reg` stands for. */
  protected override vectorLoad(instruction: Instruction, reg: Reg, d: number, length: 128 | 256 | 512) {
    const asm = this.asm;
    const element = instruction.element!;
    const memory = this.memory(instruction.address!);
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
        const mask = this.v(this.temporaries.get(instruction)![0]);
        this.mask(mask, count);
        asm.vex("vmaskmovps", length, [d, mask, memory]);
      } else asm.vex("vmovups", length, [d, memory]);
    } else if (count) {
      this.gather(d, memory, this.g(count), ELEMENT_BYTES[element] as 1 | 2, length / 32);
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
      case "f16":
      case "i64":
        throw new TypeError(`x64 emitter: no vectors of ${element}`);
      default: {
        const extend = { i8: "vpmovsxbd", u8: "vpmovzxbd", i16: "vpmovsxwd", u16: "vpmovzxwd" } as const;
        asm.vex(extend[element], length, [d, source]);
        if (asFloat) asm.vex("vcvtdq2ps", length, [d, d]);
      }
    }
  }

  /** Reads `count` narrow elements one by one: there is no masked load of them. */
  protected gather(d: number, memory: Memory, count: number, bytes: 1 | 2, lanes: number): void {
    const end = this.label();
    this.asm.vex("vxorps", 128, [d, d, d]);
    for (let i = 0; i < lanes; i++) {
      this.asm.arithmeticImmediate("cmp", count, i);
      this.asm.jump("le", end);
      const from = { ...memory, disp: memory.disp! + i * bytes };
      this.asm.vex(bytes === 1 ? "vpinsrb" : "vpinsrw", 128, [d, d, from], i);
    }
    this.asm.bind(end);
  }

  protected override store(instruction: Instruction) {
    const asm = this.asm;
    const value = instruction.args[0] as Reg;
    const element = instruction.element!;
    const memory = this.memory(instruction.address!);
    const bytes = ELEMENT_BYTES[element];
    if (isGeneral(value)) return asm.store(memory, this.g(value), bytes);
    const source = this.v(value);
    if (value.type === "f32") return asm.vex("vmovss_store", 0, [memory, source]);
    const { count } = instruction;
    const temporary = this.temporaries.get(instruction);
    if (bytes === 4) {
      if (!count) return asm.vex("vmovups_store", 256, [memory, source]);
      const mask = this.v(temporary![0]);
      this.mask(mask, count);
      return asm.vex("vmaskmovps_store", 256, [memory, mask, source]);
    }
    const t = this.v(temporary![0]);
    asm.vex("vpackusdw", 256, [t, source, source]);
    asm.vex("vpermq", 256, [t, t], 0x08);
    if (!count) return asm.vex("vmovups_store", 128, [memory, t]);
    const end = this.label();
    const n = this.g(count);
    for (let i = 0; i < 8; i++) {
      asm.arithmeticImmediate("cmp", n, i);
      asm.jump("le", end);
      asm.vex("vpextrw", 128, [{ ...memory, disp: memory.disp! + i * 2 }, t], i);
    }
    asm.bind(end);
  }
}
