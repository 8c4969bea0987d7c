/** Lowers a kernel to a WebAssembly module with 128-bit vectors. Every virtual register becomes a local. */

import {
  type MemoryName,
  type PlainName,
  type ValueType,
  type VectorName,
  WasmWriter,
  wasmModule,
} from "../asm/wasm.ts";
import type {
  Address,
  Comparison,
  Condition,
  Element,
  Immediate,
  Instruction,
  KernelCode,
  Node,
  Op,
  Operand,
  Reg,
  Type,
} from "../lang/ir.ts";
import { ELEMENT_BYTES } from "../lang/ir.ts";
import { removeMoves } from "./prepare.ts";

const LOCAL: { readonly [T in Type]: ValueType } = { index: "i32", f32: "f32", vf: "v128", vi: "v128", vb: "v128" };
const INTEGER: Partial<Record<Op, PlainName>> = {
  add: "i32.add",
  sub: "i32.sub",
  mul: "i32.mul",
  and: "i32.and",
  or: "i32.or",
  xor: "i32.xor",
  shl: "i32.shl",
  shr: "i32.shr_u",
  sar: "i32.shr_s",
};
const FLOAT: Partial<Record<Op, PlainName>> = {
  add: "f32.add",
  sub: "f32.sub",
  mul: "f32.mul",
  div: "f32.div",
  sqrt: "f32.sqrt",
  convert: "f32.convert_i32_s",
};
/** What is pushed and done in order: operands by their number, and instructions. */
type Steps = readonly (number | VectorName)[];
const COPY: Steps = [0];
const BITWISE: Partial<Record<Op, Steps>> = {
  const: COPY,
  move: COPY,
  and: [0, 1, "v128.and"],
  or: [0, 1, "v128.or"],
  xor: [0, 1, "v128.xor"],
  select: [1, 2, 0, "v128.bitselect"],
};
const VECTORS: { readonly [T in "vf" | "vi" | "vb"]: Partial<Record<Op, Steps>> } = {
  vf: {
    ...BITWISE,
    add: [0, 1, "f32x4.add"],
    sub: [0, 1, "f32x4.sub"],
    mul: [0, 1, "f32x4.mul"],
    div: [0, 1, "f32x4.div"],
    // Ours gives the second operand on NaN, theirs the first.
    min: [1, 0, "f32x4.pmin"],
    max: [1, 0, "f32x4.pmax"],
    sqrt: [0, "f32x4.sqrt"],
    round: [0, "f32x4.nearest"],
    floor: [0, "f32x4.floor"],
    fma: [0, 1, "f32x4.mul", 2, "f32x4.add"],
    fnma: [2, 0, 1, "f32x4.mul", "f32x4.sub"],
    convert: [0, "f32x4.convert_i32x4_s"],
  },
  vi: {
    ...BITWISE,
    add: [0, 1, "i32x4.add"],
    sub: [0, 1, "i32x4.sub"],
    mul: [0, 1, "i32x4.mul"],
    min: [0, 1, "i32x4.min_s"],
    max: [0, 1, "i32x4.max_s"],
    andnot: [1, 0, "v128.andnot"],
    shl: [0, 1, "i32x4.shl"],
    shr: [0, 1, "i32x4.shr_u"],
    sar: [0, 1, "i32x4.shr_s"],
    convert: [0, "f32x4.nearest", "i32x4.trunc_sat_f32x4_s"],
    shuffleBytes: [0, 1, "i8x16.swizzle"],
    equalBytes: [0, 1, "i8x16.eq"],
    packBytes: [0, 1, "i16x8.narrow_i32x4_s", 2, 3, "i16x8.narrow_i32x4_s", "i8x16.narrow_i16x8_s"],
    dot: [
      ...([0, 1, "i16x8.extmul_low_i8x16_s", "i32x4.extadd_pairwise_i16x8_s"] as const),
      ...([0, 1, "i16x8.extmul_high_i8x16_s", "i32x4.extadd_pairwise_i16x8_s"] as const),
      "i32x4.add",
    ],
  },
  vb: BITWISE,
};
const CONDITIONS: { readonly [C in Comparison]: PlainName } = {
  lt: "i32.lt_s",
  le: "i32.le_s",
  eq: "i32.eq",
  ne: "i32.ne",
  gt: "i32.gt_s",
  ge: "i32.ge_s",
};
const LOADS: { readonly [E in Element]: MemoryName | undefined } = {
  i64: "i32.load",
  i32: "i32.load",
  f16: undefined,
  i16: "i32.load16_s",
  u16: "i32.load16_u",
  bf16: "i32.load16_u",
  i8: "i32.load8_s",
  u8: "i32.load8_u",
  f32: undefined,
};
const UNPACKS: readonly (readonly number[])[] = [
  [0, 4, 1, 5],
  [2, 6, 3, 7],
  [0, 1, 4, 5],
  [2, 3, 6, 7],
];
/** The lower two lanes and the second lane brought to the front, for reductions. */
const UPPER_HALF = [2, 3, 2, 3];
const SECOND = [1, 1, 1, 1];
const LANES = 4;

const bytesOf = (lanes: readonly number[]): number[] => lanes.flatMap((lane) => [0, 1, 2, 3].map((b) => lane * 4 + b));

/** A vector constant as it lies in memory. */
function vectorBytes({ type, value, bytes }: Immediate): Uint8Array {
  if (bytes) return Uint8Array.from(bytes);
  const lanes = Array(LANES).fill(value);
  return new Uint8Array((type === "vi" ? Int32Array.from(lanes) : Float32Array.from(lanes)).buffer);
}

/** A module of one kernel; see `wasmModule` for what it imports and exports. */
export function emitWasm(code: KernelCode): Uint8Array<ArrayBuffer> {
  removeMoves(code);
  return new Emitter(code).run();
}

class Emitter {
  readonly #code: KernelCode;
  readonly #writer = new WasmWriter();
  readonly #locals = new Map<Reg, number>();
  readonly #types: ValueType[] = [];
  /** A vector local for reductions. */
  readonly #spare: number;
  /** Locals of the vector constants that loops use: compilers of WebAssembly would make them anew each time. */
  readonly #constants = new Map<string, number>();

  constructor(code: KernelCode) {
    this.#code = code;
    const parameters = new Set<Reg>(code.parameters);
    code.parameters.forEach((reg, i) => {
      this.#locals.set(reg, i);
    });
    // Grouped by type, which keeps the list of locals short.
    const rest = code.registers.filter((reg) => !parameters.has(reg));
    for (const type of ["i32", "f32", "v128"] as const) {
      for (const reg of rest) {
        if (LOCAL[reg.type] !== type) continue;
        this.#locals.set(reg, 3 + this.#types.length);
        this.#types.push(type);
      }
    }
    this.#spare = 3 + this.#types.length;
    this.#types.push("v128");
  }

  run(): Uint8Array<ArrayBuffer> {
    this.#keepConstants(this.#code.body, false);
    this.#nodes(this.#code.body);
    return wasmModule(this.#types, this.#writer.bytes);
  }

  /** Puts the vector constants of loops into locals. */
  #keepConstants(nodes: readonly Node[], inLoop: boolean): void {
    const w = this.#writer;
    for (const node of nodes) {
      if (node.kind === "loop") this.#keepConstants(node.body, true);
      else if (node.kind === "if") {
        this.#keepConstants(node.yes, inLoop);
        this.#keepConstants(node.no, inLoop);
      } else if (node.kind === "op" && inLoop) {
        for (const arg of node.args) {
          if (arg.kind === "reg" || arg.type === "index" || arg.type === "f32") continue;
          const bytes = vectorBytes(arg);
          if (this.#constants.has(bytes.join())) continue;
          const local = 3 + this.#types.length;
          this.#types.push("v128");
          this.#constants.set(bytes.join(), local);
          w.v128(bytes);
          w.set(local);
        }
      }
    }
  }

  #nodes(nodes: readonly Node[]): void {
    const w = this.#writer;
    for (const node of nodes) {
      if (node.kind === "op") this.#instruction(node);
      else if (node.kind === "if") {
        this.#condition(node.condition);
        w.if();
        this.#nodes(node.yes);
        if (node.no.length) {
          w.op("else");
          this.#nodes(node.no);
        }
        w.op("end");
      } else if (node.kind === "loop") {
        w.loop();
        this.#nodes(node.body);
        this.#condition(node.condition);
        w.branchIf(0);
        w.op("end");
      }
    }
  }

  #condition({ comparison, left, right }: Condition): void {
    this.#push(left);
    this.#push(right);
    this.#writer.op(CONDITIONS[comparison]);
  }

  #local(reg: Reg): number {
    return this.#locals.get(reg)!;
  }

  #push(operand: Operand): void {
    const w = this.#writer;
    if (operand.kind === "reg") w.get(this.#local(operand));
    else if (operand.type === "index") w.i32(operand.value);
    else if (operand.type === "f32") w.f32(operand.value);
    else {
      const bytes = vectorBytes(operand);
      const local = this.#constants.get(bytes.join());
      if (local === undefined) w.v128(bytes);
      else w.get(local);
    }
  }

  /** Pushes an address; what is left of it goes into the instruction as its offset. */
  #address({ base, index, scale, disp }: Address): number {
    const w = this.#writer;
    this.#push(base);
    if (index) {
      this.#push(index);
      if (scale > 1) {
        w.i32(Math.log2(scale));
        w.op("i32.shl");
      }
      w.op("i32.add");
    }
    if (disp >= 0) return disp;
    w.i32(disp);
    w.op("i32.add");
    return 0;
  }

  #instruction(instruction: Instruction) {
    const { op, dst, address } = instruction;
    if (op === "prefetch") return;
    if (op === "store") return this.#store(instruction);
    if (op === "load" || op === "loadBlock") {
      // A vector is one block.
      if (instruction.count) this.#loadSome(instruction, dst!);
      else this.#load(instruction, dst!);
    } else if (op === "exchange") {
      const offset = this.#address(address!);
      this.#push(instruction.args[0]);
      this.#writer.exchange(offset);
    } else if (op === "broadcast") this.#broadcast(instruction);
    else if (op === "broadcastBlock" || op === "nibbles") this.#loadBytes(instruction);
    else if (dst!.type === "index" || dst!.type === "f32") this.#scalar(instruction, dst!);
    else this.#vector(instruction, dst!);
    this.#writer.set(this.#local(dst!));
  }

  #scalar({ op, args, imm }: Instruction, dst: Reg) {
    const w = this.#writer;
    const plain = (dst.type === "index" ? INTEGER : FLOAT)[op];
    if (plain) {
      for (const arg of args) this.#push(arg);
      return w.op(plain);
    }
    switch (op) {
      case "const":
      case "move":
        return this.#push(args[0]);
      case "neg":
        w.i32(0);
        this.#push(args[0]);
        return w.op("i32.sub");
      case "min":
      case "max": {
        for (const arg of [...args, ...args]) this.#push(arg);
        const less = dst.type === "index" ? ("i32.lt_s" as const) : ("f32.lt" as const);
        w.op(op === "min" ? less : dst.type === "index" ? "i32.gt_s" : "f32.gt");
        return w.op("select");
      }
      case "fma":
      case "fnma":
        this.#push(op === "fma" ? args[0] : args[2]);
        if (op === "fnma") this.#push(args[0]);
        this.#push(args[1]);
        w.op("f32.mul");
        if (op === "fma") this.#push(args[2]);
        return w.op(op === "fma" ? "f32.add" : "f32.sub");
      case "first":
        this.#push(args[0]);
        return w.firstLane();
      case "reduce": {
        this.#push(args[0]);
        w.tee(this.#spare);
        for (const order of [UPPER_HALF, SECOND]) {
          w.get(this.#spare);
          w.get(this.#spare);
          w.shuffle(bytesOf(order));
          w.vector(imm === 0 ? "f32x4.add" : "f32x4.pmax");
          w.tee(this.#spare);
        }
        return w.firstLane();
      }
      default:
        throw new TypeError(`wasm emitter: no ${op} of ${dst.type}`);
    }
  }

  #vector({ op, args, imm, comparison }: Instruction, dst: Reg) {
    const w = this.#writer;
    const type = dst.type as "vf" | "vi" | "vb";
    const steps = VECTORS[type][op];
    if (steps) {
      for (const step of steps) {
        if (typeof step === "number") this.#push(args[step]);
        else w.vector(step);
      }
      return;
    }
    switch (op) {
      case "compare":
        this.#push(args[0]);
        this.#push(args[1]);
        if (imm === 0) return w.vector(`f32x4.${comparison!}`);
        return w.vector(comparison === "eq" ? "i32x4.eq" : "i32x4.gt_s");
      case "splat":
        this.#push(args[0]);
        return w.vector(args[0].type === "f32" ? "f32x4.splat" : "i32x4.splat");
      case "lanes":
        return w.v128(new Uint8Array(Int32Array.from({ length: LANES }, (_, i) => imm! + i).buffer));
      case "unpack":
        this.#push(args[0]);
        this.#push(args[1]);
        return w.shuffle(bytesOf(UNPACKS[imm!]));
      case "widenBytes":
        this.#push(args[0]);
        return this.#widen(imm === 1 ? "i8" : "u8");
      case "mulWide":
        for (const arg of args) {
          this.#push(arg);
          this.#push(arg);
          w.shuffle(bytesOf([0, 2, 0, 2]));
        }
        return w.vector("i64x2.extmul_low_i32x4_u");
      case "oddLanes":
        this.#push(args[0]);
        this.#push(args[0]);
        return w.shuffle(bytesOf([1, 1, 3, 3]));
      default:
        throw new TypeError(`wasm emitter: no ${op} of ${type}`);
    }
  }

  #loadBytes({ op, address, imm }: Instruction) {
    const w = this.#writer;
    w.vectorMemory("v128.load", this.#address(address!));
    if (op !== "nibbles") return;
    if (imm === 1) {
      w.i32(4);
      w.vector("i32x4.shr_u");
    }
    w.v128(new Uint8Array(16).fill(15));
    w.vector("v128.and");
  }

  #broadcast({ address, element }: Instruction) {
    const w = this.#writer;
    const offset = this.#address(address!);
    if (element === "f32" || element === "i32") return w.vectorMemory("v128.load32_splat", offset);
    if (element === "f16") return this.#broadcastHalf(offset);
    if (element !== "bf16") throw new TypeError(`wasm emitter: no broadcast of ${element}`);
    w.vectorMemory("v128.load16_splat", offset);
    w.i32(16);
    w.vector("i32x4.shl");
  }

  /** Halves have the bits of an f32 with a smaller exponent; those of infinity and NaN are filled up. */
  #broadcastHalf(offset: number) {
    const w = this.#writer;
    const all = (lane: Int32Array | Float32Array): void => w.v128(new Uint8Array(lane.buffer));
    const float = (x: number) => Float32Array.from({ length: LANES }, () => x);
    const bits = (x: number) => new Int32Array(LANES).fill(x);
    w.vectorMemory("v128.load16_splat", offset);
    w.tee(this.#spare);
    all(bits(0x7fff));
    w.vector("v128.and");
    w.i32(13);
    w.vector("i32x4.shl");
    all(float(2 ** 112));
    w.vector("f32x4.mul");
    w.get(this.#spare);
    all(bits(-0x80000000));
    w.vector("v128.and");
    w.vector("v128.or");
    w.get(this.#spare);
    all(bits(0x7c00));
    w.vector("v128.and");
    all(bits(0x7c00));
    w.vector("i32x4.eq");
    all(bits(0x7f800000));
    w.vector("v128.and");
    w.vector("v128.or");
  }

  #load({ address, element }: Instruction, dst: Reg) {
    const w = this.#writer;
    const offset = this.#address(address!);
    if (dst.type === "index") return w.memory(LOADS[element!]!, offset);
    if (dst.type === "f32") {
      if (element === "f32") return w.memory("f32.load", offset);
      if (element !== "bf16") throw new TypeError(`wasm emitter: no load of one ${element} as f32`);
      w.vectorMemory("v128.load16_splat", offset);
      w.i32(16);
      w.vector("i32x4.shl");
      return w.firstLane();
    }
    switch (ELEMENT_BYTES[element!]) {
      case 4:
        w.vectorMemory("v128.load", offset);
        break;
      case 2:
        w.vectorMemory(element === "i16" ? "v128.load16x4_s" : "v128.load16x4_u", offset);
        break;
      case 1:
        w.vectorMemory("v128.load32_zero", offset);
        this.#widen(element!);
        break;
      default:
        throw new TypeError("wasm emitter: no vectors of i64");
    }
    this.#interpret(element!, dst);
  }

  /** Narrow elements at the vector's start to 32 bits. */
  #widen(element: Element): void {
    const w = this.#writer;
    const sign = element === "i8" || element === "i16" ? "s" : "u";
    if (ELEMENT_BYTES[element] === 1) w.vector(`i16x8.extend_low_i8x16_${sign}`);
    if (ELEMENT_BYTES[element] < 4) w.vector(`i32x4.extend_low_i16x8_${sign}`);
  }

  /** Integers of 32 bits on the stack to what the register holds. */
  #interpret(element: Element, dst: Reg) {
    const w = this.#writer;
    if (dst.type !== "vf" || element === "f32") return;
    if (element !== "bf16") return w.vector("f32x4.convert_i32x4_s");
    w.i32(16);
    w.vector("i32x4.shl");
  }

  /** A vector of which only `count` elements may be touched. */
  #loadSome(instruction: Instruction, dst: Reg): void {
    const w = this.#writer;
    const { address, count } = instruction;
    const element = instruction.element!;
    const bytes = ELEMENT_BYTES[element];
    const local = this.#local(dst);
    const whole = bytes === 4 ? "v128.load" : bytes === 2 ? "v128.load64_zero" : "v128.load32_zero";
    const one = bytes === 4 ? "v128.load32_lane" : bytes === 2 ? "v128.load16_lane" : "v128.load8_lane";
    w.v128(new Uint8Array(16));
    w.set(local);
    this.#some(
      count!,
      () => {
        w.vectorMemory(whole, this.#address(address!));
        w.set(local);
      },
      (lane) => {
        const offset = this.#address(address!);
        w.get(local);
        w.vectorMemory(one, offset + lane * bytes, lane);
        w.set(local);
      },
    );
    w.get(local);
    this.#widen(element);
    this.#interpret(element, dst);
  }

  #store({ args, address, element, count }: Instruction) {
    const w = this.#writer;
    const value = args[0] as Reg;
    const bytes = ELEMENT_BYTES[element!];
    if (value.type === "index" || value.type === "f32") {
      const offset = this.#address(address!);
      this.#push(value);
      if (value.type === "f32") return w.memory("f32.store", offset);
      if (bytes === 8) w.op("i64.extend_i32_s");
      return w.memory(({ 1: "i32.store8", 2: "i32.store16", 4: "i32.store", 8: "i64.store" } as const)[bytes], offset);
    }
    if (bytes === 2 ? value.type !== "vi" : bytes !== 4) {
      throw new TypeError(`wasm emitter: no store of ${value.type} as ${element}`);
    }
    const push = (): void => {
      this.#push(value);
      if (bytes === 4) return;
      this.#push(value);
      w.vector("i16x8.narrow_i32x4_u");
    };
    const whole = (): void => {
      const offset = this.#address(address!);
      push();
      if (bytes === 4) w.vectorMemory("v128.store", offset);
      else w.vectorMemory("v128.store64_lane", offset, 0);
    };
    if (!count) return whole();
    this.#some(count, whole, (lane) => {
      const offset = this.#address(address!);
      push();
      w.vectorMemory(bytes === 4 ? "v128.store32_lane" : "v128.store16_lane", offset + lane * bytes, lane);
    });
  }

  /** Does a vector as a whole where `count` has all its lanes, else one lane after another. */
  #some(count: Reg, whole: () => void, one: (lane: number) => void): void {
    const w = this.#writer;
    const atLeast = (lanes: number): void => {
      w.get(this.#local(count));
      w.i32(lanes);
      w.op("i32.ge_s");
      w.if();
    };
    atLeast(LANES);
    whole();
    w.op("else");
    for (let lane = 0; lane < LANES - 1; lane++) {
      atLeast(lane + 1);
      one(lane);
    }
    for (let lane = 0; lane < LANES; lane++) w.op("end");
  }
}
