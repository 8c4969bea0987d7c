/** Vectors of 512 bits: AVX-512 F, BW, DQ and VL, as every server core since Skylake-SP and every Zen since 4 has them. */

import type { Memory, Operand } from "../asm/x64.ts";
import type { EvexName } from "../asm/x64-evex-table.ts";
import type { Comparison, Instruction, Operand as IrOperand, KernelCode, Op, Reg, Type } from "../lang/ir.ts";
import { ELEMENT_BYTES } from "../lang/ir.ts";
import { type Abi, isGeneral, X64Emitter } from "./x64-emitter.ts";

const range = (from: number, to: number): number[] => Array.from({ length: to - from }, (_, i) => from + i);
/** Mask 0 means all lanes, mask 1 is for the tails of loads and stores. */
const TAIL = 1;
const UNIT = { bytes: 64, registers: range(0, 32), masks: range(2, 8) } as const;
const LANES = 16;

const BINARY: { readonly [T in "vf" | "vi" | "f32"]: Partial<Record<Op, EvexName>> } = {
  vf: { add: "vaddps", sub: "vsubps", mul: "vmulps", div: "vdivps", min: "vminps", max: "vmaxps" },
  f32: { add: "vaddss", sub: "vsubss", mul: "vmulss", div: "vdivss", min: "vminss", max: "vmaxss" },
  vi: {
    add: "vpaddd",
    sub: "vpsubd",
    mul: "vpmulld",
    min: "vpminsd",
    max: "vpmaxsd",
    and: "vpandd",
    or: "vpord",
    xor: "vpxord",
  },
};
const MASK_LOGIC = { and: "kandw", or: "korw", xor: "kxorw", andnot: "kandnw" } as const;
const SHIFTS: Partial<Record<Op, EvexName>> = { shl: "vpslld", shr: "vpsrld", sar: "vpsrad" };
const UNPACKS: readonly EvexName[] = ["vunpcklps", "vunpckhps", "vunpcklpd", "vunpckhpd"];
const REDUCTIONS: readonly [EvexName, EvexName][] = [
  ["vaddps", "vaddss"],
  ["vmaxps", "vmaxss"],
];
const PREDICATES: { readonly [C in Comparison]: number } = { lt: 17, le: 18, eq: 0, ne: 4, gt: 30, ge: 29 };

export class Avx512Emitter extends X64Emitter {
  constructor(code: KernelCode, abi: Abi, listing: boolean) {
    super(code, abi, listing, UNIT);
  }

  protected override moveFromStack(register: number, from: Memory): void {
    this.asm.evex("vmovups", 512, [register, from]);
  }

  protected override moveToStack(to: Memory, register: number): void {
    this.asm.evex("vmovups_store", 512, [to, register]);
  }

  protected override needs({ op, count, dst, args, imm }: Instruction): Type[] {
    if (op === "reduce" || count || (op === "loadBlock" && imm! > 0)) return ["vf"];
    if ((op === "min" || op === "max") && dst?.type === "index" && args[1].kind === "immediate") return ["index"];
    return [];
  }

  /** A vector operand that may be memory: a constant, one element for all lanes, or a spilled vector where it lies. */
  private vm(operand: IrOperand): Operand {
    if (operand.kind === "immediate") return { ...this.element(operand.type, operand.value), broadcast: true };
    return this.vector.places.get(operand) ?? this.slot(operand);
  }

  private element(type: Type, value: number): Memory {
    const values = type === "vi" ? Int32Array.of(value) : Float32Array.of(value);
    return { label: this.asm.constant(new Uint8Array(values.buffer)) };
  }

  private lanes(start: number): Memory {
    const numbers = Int32Array.from({ length: LANES }, (_, i) => start + i);
    return { label: this.asm.constant(new Uint8Array(numbers.buffer)) };
  }

  protected override vectorOp(instruction: Instruction, reg: Reg) {
    const { asm } = this;
    const { op, args } = instruction;
    if (op.startsWith("tile")) return this.tile(instruction);
    const d = this.dst(reg);
    if (reg.type === "vb") return this.truth(instruction, d);
    const type = reg.type as "vf" | "vi" | "f32";
    const binary = BINARY[type][op];
    if (binary) {
      const a = this.v(args[0]);
      return asm.evex(binary, 512, [d, a, this.vm(args[1])]);
    }
    switch (op) {
      case "const": {
        const { value } = args[0] as { value: number };
        if (value === 0 && !Object.is(value, -0)) return asm.evex("vpxord", 128, [d, d, d]);
        return asm.evex(type === "f32" ? "vmovss" : "vbroadcastss", 512, [d, this.element(type, value)]);
      }
      case "first":
      case "move": {
        const a = this.v(args[0]);
        if (a !== d) asm.evex("vmovaps", type === "f32" ? 128 : 512, [d, a]);
        return;
      }
      case "shl":
      case "shr":
      case "sar":
        return asm.evex(SHIFTS[op]!, 512, [d, this.v(args[0])], { immediate: (args[1] as { value: number }).value });
      case "mulWide": {
        const [a, b] = args.map((arg) => this.v(arg));
        return asm.evex("vpmuludq", 512, [d, a!, b!]);
      }
      case "narrow":
        if (args.length === 1) {
          asm.evex("vcvtneps2bf16", 512, [d, this.v(args[0])]);
          return asm.evex("vpmovzxwd", 512, [d, d]);
        }
        // The second source gives the lower half.
        return asm.evex("vcvtne2ps2bf16", 512, [d, this.v(args[1]), this.vm(args[0])]);
      case "oddLanes":
        return asm.evex("vmovshdup", 512, [d, this.v(args[0])]);
      case "sqrt": {
        if (type === "vf") return asm.evex("vsqrtps", 512, [d, this.vm(args[0])]);
        const a = this.v(args[0]);
        return asm.evex("vsqrtss", 0, [d, a, a]);
      }
      case "round":
      case "floor":
        // Without exceptions (8), to nearest (0) or down (1).
        return asm.evex("vrndscaleps", 512, [d, this.vm(args[0])], { immediate: op === "round" ? 8 : 9 });
      case "fma":
      case "fnma":
        return this.fma(instruction, d, type);
      case "select":
        return asm.evex("vblendmps", 512, [d, this.v(args[2]), this.vm(args[1])], {
          mask: this.masks.places.get(args[0] as Reg),
        });
      case "convert": {
        const from = args[0] as Reg;
        if (!isGeneral(from)) return asm.evex(type === "vf" ? "vcvtdq2ps" : "vcvtps2dq", 512, [d, this.vm(from)]);
        asm.evex("vpxord", 128, [d, d, d]);
        return asm.evex("vcvtsi2ss", 0, [d, d, this.g(from)]);
      }
      case "splat": {
        const from = args[0] as Reg;
        if (isGeneral(from)) return asm.evex("vpbroadcastd", 512, [d, this.g(from)]);
        return asm.evex("vbroadcastss", 512, [d, this.v(from)]);
      }
      case "lanes":
        return asm.evex("vmovups", 512, [d, this.lanes(instruction.imm!)]);
      case "broadcast":
        return this.broadcast(instruction, d);
      case "unpack": {
        const a = this.v(args[0]);
        return asm.evex(UNPACKS[instruction.imm!], 512, [d, a, this.vm(args[1])]);
      }
      case "reduce": {
        const [vector, scalar] = REDUCTIONS[instruction.imm!];
        const a = this.v(args[0]);
        const t = this.temporary(instruction);
        asm.evex("vextractf64x4", 512, [t, a], { immediate: 1 });
        asm.evex(vector, 256, [d, a, t]);
        asm.evex("vextractf32x4", 256, [t, d], { immediate: 1 });
        asm.evex(vector, 128, [d, d, t]);
        asm.evex("vmovhlps", 128, [t, d, d]);
        asm.evex(vector, 128, [d, d, t]);
        asm.evex("vmovshdup", 128, [t, d]);
        return asm.evex(scalar, 0, [d, d, t]);
      }
      default:
        throw new TypeError(`AVX-512 emitter: no ${op} of ${type}`);
    }
  }

  /** Matrix tiles: each 16 rows of 64 bytes. */
  private tile({ op, imm = 0, address }: Instruction) {
    const { asm } = this;
    switch (op) {
      case "tileBegin": {
        const shapes = new Uint8Array(64);
        shapes[0] = 1;
        for (let tile = 0; tile < 8; tile++) {
          shapes[16 + 2 * tile] = 64;
          shapes[48 + tile] = 16;
        }
        return asm.loadTileConfiguration({ label: asm.constant(shapes) });
      }
      case "tileEnd":
        return asm.releaseTiles();
      case "tileZero":
        return asm.zeroTile(imm);
      case "tileLoad":
        return asm.loadTile(imm, this.memory(address!));
      case "tileStream":
        return asm.streamTile(imm, this.memory(address!));
      case "tileStore":
        return asm.storeTile(this.memory(address!), imm);
      default:
        return asm.multiplyTiles(imm & 7, (imm >> 3) & 7, imm >> 6);
    }
  }

  /** What gives truth values, which lie in mask registers. */
  private truth({ op, args, imm, comparison }: Instruction, d: number) {
    const { asm } = this;
    const mask = (operand: IrOperand) => this.masks.places.get(operand as Reg)!;
    if (op === "compare") {
      const a = this.v(args[0]);
      const b = this.vm(args[1]);
      if (imm === 0) return asm.evex("vcmpps", 512, [d, a, b], { immediate: PREDICATES[comparison!] });
      return asm.evex(comparison === "eq" ? "vpcmpeqd" : "vpcmpgtd", 512, [d, a, b]);
    }
    if (op === "move") return d === mask(args[0]) ? undefined : asm.maskCopy(d, mask(args[0]));
    if (op === "and" || op === "or" || op === "xor" || op === "andnot") {
      return asm.maskLogic(MASK_LOGIC[op], d, mask(args[0]), mask(args[1]));
    }
    throw new TypeError(`AVX-512 emitter: no ${op} of truth values`);
  }

  /** Picks the form whose overwritten operand is the result's register; only the last operand may be memory. */
  private fma({ op, args }: Instruction, d: number, type: "vf" | "vi" | "f32") {
    const { asm } = this;
    const suffix = type === "f32" ? "ss" : "ps";
    const name = (order: "132" | "213" | "231") => `v${op === "fma" ? "fmadd" : "fnmadd"}${order}${suffix}` as EvexName;
    const x = this.v(args[0]);
    const y = this.vm(args[1]);
    const z = this.vm(args[2]);
    const load = (from: Operand): void => {
      if (d === from) return;
      if (typeof from === "number") asm.evex("vmovaps", 512, [d, from]);
      else if (from.broadcast) asm.evex("vbroadcastss", 512, [d, { ...from, broadcast: false }]);
      else asm.evex("vmovups", 512, [d, from]);
    };
    if (typeof z === "number") {
      if (d === z) return asm.evex(name("231"), 512, [d, x, y]);
      if (d === x && typeof y !== "number") return asm.evex(name("132"), 512, [d, z, y]);
      if (d === x) return asm.evex(name("213"), 512, [d, y as number, z]);
      if (d === y) return asm.evex(name("213"), 512, [d, x, z]);
      load(z);
      return asm.evex(name("231"), 512, [d, x, y]);
    }
    if (d === y) return asm.evex(name("213"), 512, [d, x, z]);
    if (d !== x) {
      load(y);
      return asm.evex(name("213"), 512, [d, x, z]);
    }
    if (typeof y === "number") return asm.evex(name("213"), 512, [d, y, z]);
    // d = d·[y] + [z]: a product and a sum would round twice, so the constant needs a register.
    const scratch = this.scratchBeside(d);
    asm.evex("vbroadcastss", 512, [scratch, { ...y, broadcast: false }]);
    return asm.evex(name("213"), 512, [d, scratch, z]);
  }

  private scratchBeside(d: number): number {
    if (this.vector.slots.size === 0)
      throw new Error("AVX-512 emitter: two constants in one multiply-add need a register");
    return this.unit.registers.findLast((register) => register !== d)!;
  }

  private broadcast(instruction: Instruction, d: number) {
    const { asm } = this;
    const memory = this.memory(instruction.address!);
    switch (instruction.element) {
      case "f32":
      case "i32":
        return asm.evex("vbroadcastss", 512, [d, memory]);
      case "bf16":
        // Both halves of a lane hold the number; the shift leaves it in the upper one.
        asm.evex("vpbroadcastw", 512, [d, memory]);
        return asm.evex("vpslld", 512, [d, d], { immediate: 16 });
      case "f16":
        asm.evex("vpbroadcastw", 256, [d, memory]);
        return asm.evex("vcvtph2ps", 512, [d, d]);
      default:
        throw new TypeError(`AVX-512 emitter: no broadcast of ${instruction.element}`);
    }
  }

  /** Makes mask `TAIL` that of the lanes below the instruction's count; no mask where there is none. */
  private tail(instruction: Instruction, length: 128 | 256 | 512): { mask?: number } {
    if (!instruction.count) return {};
    const t = this.temporary(instruction);
    this.asm.evex("vpbroadcastd", length, [t, this.g(instruction.count)]);
    this.asm.evex("vpcmpgtd", length, [TAIL, t, this.lanes(0)]);
    return { mask: TAIL };
  }

  protected override vectorLoad(instruction: Instruction, reg: Reg, d: number, length: 128 | 256 | 512) {
    const { asm } = this;
    const element = instruction.element!;
    const memory = this.memory(instruction.address!);
    if (reg.type === "f32") {
      if (element === "f32") return asm.evex("vmovss", 0, [d, memory]);
      if (element !== "bf16") throw new TypeError(`AVX-512 emitter: no load of one ${element} as f32`);
      asm.evex("vpbroadcastw", 128, [d, memory]);
      return asm.evex("vpslld", 128, [d, d], { immediate: 16 });
    }
    const tail = this.tail(instruction, length);
    const load = (name: EvexName) => asm.evex(name, length, [d, memory], tail.mask ? { ...tail, zero: true } : {});
    const asFloat = reg.type === "vf";
    switch (element) {
      case "f32":
        return load("vmovups");
      case "f16":
        return load("vcvtph2ps");
      case "bf16":
        load("vpmovzxwd");
        if (asFloat) asm.evex("vpslld", length, [d, d], { immediate: 16 });
        return;
      case "i64":
        throw new TypeError("AVX-512 emitter: no vectors of i64");
      default: {
        const names = { i32: "vmovups", i16: "vpmovsxwd", u16: "vpmovzxwd", i8: "vpmovsxbd", u8: "vpmovzxbd" } as const;
        load(names[element]);
        if (asFloat) asm.evex("vcvtdq2ps", length, [d, d]);
      }
    }
  }

  protected override loadBlock(instruction: Instruction, reg: Reg) {
    const block = instruction.imm!;
    const d = this.dst(reg);
    if (block === 0) return this.vectorLoad(instruction, reg, d, 128);
    const others = this.v(instruction.args[0]);
    let source: Operand;
    if (instruction.count || ELEMENT_BYTES[instruction.element!] < 4) {
      source = this.temporary(instruction);
      this.vectorLoad(instruction, reg, source, 128);
    } else source = this.memory(instruction.address!);
    return this.asm.evex("vinsertf32x4", 512, [d, others, source], { immediate: block });
  }

  protected override store(instruction: Instruction) {
    const { asm } = this;
    const value = instruction.args[0] as Reg;
    const bytes = ELEMENT_BYTES[instruction.element!];
    const memory = this.memory(instruction.address!);
    if (isGeneral(value)) return asm.store(memory, this.g(value), bytes);
    const source = this.v(value);
    if (value.type === "f32") return asm.evex("vmovss_store", 0, [memory, source]);
    if (bytes !== 4 && bytes !== 2) throw new TypeError(`AVX-512 emitter: no store of ${bytes} bytes a lane`);
    const tail = this.tail(instruction, 512);
    return asm.evex(bytes === 4 ? "vmovups_store" : "vpmovdw_store", 512, [memory, source], tail);
  }
}
