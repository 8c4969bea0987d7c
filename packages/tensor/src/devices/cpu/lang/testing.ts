/**
 * Runs a kernel's intermediate form itself, for tests of what no computer at hand can execute: the same steps, one by one, over
 * plain memory. Matrix tiles are modelled after Intel's description of TDPBF16PS. Every access must lie in a block that
 * was allocated. Operations that no tested kernel uses are refused.
 */
import { fromF16 } from "../../../dtype.ts";
import type { Address, Condition, Instruction, KernelCode, Node, Operand, Reg } from "./ir.ts";

const TILE_ROWS = 16;
const TILE_BYTES = 1024;

/** Where modelled kernels compute. */
export interface KernelMemory {
  readonly view: DataView;
  /** The address, when kernels may touch so many bytes there. @throws RangeError when not */
  check(address: number, bytes: number): number;
}

/** Memory of blocks apart from each other, outside of which nothing may be touched. */
export class ModelMemory implements KernelMemory {
  readonly buffer: ArrayBuffer;
  readonly view: DataView;
  private readonly mine: Uint8Array;
  private top = 64;

  constructor(bytes: number) {
    this.buffer = new ArrayBuffer(bytes);
    this.view = new DataView(this.buffer);
    this.mine = new Uint8Array(bytes);
  }

  allocate(bytes: number): number {
    const address = this.top;
    this.top = address + Math.ceil(bytes / 4) * 4 + 64;
    if (this.top > this.mine.length) throw new RangeError(`${bytes} bytes are more than the model's memory has left`);
    this.mine.fill(1, address, address + bytes);
    new Uint8Array(this.buffer).fill(0, address, address + bytes);
    return address;
  }

  reset(): void {
    this.mine.fill(0);
    this.top = 64;
  }

  check(address: number, bytes: number): number {
    for (let at = address; at < address + bytes; at++) {
      if (this.mine[at] !== 1) throw new RangeError(`byte ${at - address} of ${bytes} at ${address} is nobody's`);
    }
    return address;
  }
}

interface Vector {
  readonly f: Float32Array;
  readonly i: Int32Array;
}

/** Numbers too small for a normal f32 count as 0 in the tile unit. */
const flushed = (x: number): number => (Math.abs(x) < 2 ** -126 ? 0 : x);

class Model {
  private readonly memory: KernelMemory;
  private readonly numbers: number[] = [];
  private readonly vectors = new Map<number, Vector>();
  private readonly lanes: number;
  private readonly all: readonly number[];
  private tiles: Uint8Array[] | undefined;

  constructor(memory: KernelMemory, { target, parameters, registers }: KernelCode, values: readonly number[]) {
    this.memory = memory;
    this.lanes = target.lanes;
    this.all = Array.from({ length: this.lanes }, (_, lane) => lane);
    for (const { id, type } of registers) {
      if (type === "index" || type === "f32") continue;
      const f = new Float32Array(this.lanes);
      this.vectors.set(id, { f, i: new Int32Array(f.buffer) });
    }
    parameters.forEach((reg, i) => {
      this.numbers[reg.id] = values[i];
    });
  }

  run(nodes: readonly Node[]): void {
    for (const node of nodes) {
      if (node.kind === "op") this.step(node);
      else if (node.kind === "if") this.run(this.holds(node.condition) ? node.yes : node.no);
      else if (node.kind === "loop") {
        do this.run(node.body);
        while (this.holds(node.condition));
      }
    }
  }

  /** @throws Error when tiles were not given back */
  finish(): void {
    if (this.tiles) throw new Error("a kernel left its tiles configured");
  }

  private holds({ comparison, left, right }: Condition): boolean {
    return compare(comparison, this.number(left), this.number(right));
  }

  private number(operand: Operand): number {
    return operand.kind === "reg" ? this.numbers[operand.id] : operand.value;
  }

  private float(operand: Operand, lane: number): number {
    return operand.kind === "reg" ? this.vectors.get(operand.id)!.f[lane] : operand.value;
  }

  private int(operand: Operand, lane: number): number {
    if (operand.kind === "reg") return this.vectors.get(operand.id)!.i[lane];
    return operand.type === "vf" ? bitsOf(operand.value) : operand.value | 0;
  }

  private at({ base, index, scale, disp }: Address): number {
    return this.numbers[base.id] + (index ? this.numbers[index.id] * scale : 0) + disp;
  }

  private step(instruction: Instruction): void {
    const { op, dst, address, args } = instruction;
    if (op.startsWith("tile")) this.tile(instruction);
    else if (op === "store") this.store(instruction);
    else if (op === "prefetch") return;
    else if (!dst) throw new TypeError(`the model knows no ${op}`);
    else if (dst.type !== "index" && dst.type !== "f32") {
      this.vectors.get(dst.id)!.i.set(this.lanesOf(instruction, dst));
    } else if (op === "load") this.numbers[dst.id] = this.loaded(dst, instruction.element!, this.at(address!));
    else if (op === "exchange") {
      const place = this.memory.check(this.at(address!), 4);
      this.numbers[dst.id] = this.memory.view.getInt32(place, true);
      this.memory.view.setInt32(place, this.number(args[0]), true);
    } else if (op === "reduce") {
      const lanes = this.all.map((lane) => this.float(args[0], lane));
      this.numbers[dst.id] = instruction.imm === 1 ? Math.max(...lanes) : halves(lanes);
    } else {
      const [a, b = 0] = args.map((arg) => this.number(arg));
      this.numbers[dst.id] = scalar(op, dst, a, b);
    }
  }

  private loaded(dst: Reg, element: string, place: number): number {
    const { view } = this.memory;
    this.memory.check(place, element === "i64" ? 8 : 4);
    if (dst.type === "f32") return view.getFloat32(place, true);
    if (element === "i64") return view.getUint32(place, true) + view.getInt32(place + 4, true) * 2 ** 32;
    if (element === "i32") return view.getInt32(place, true);
    throw new TypeError(`the model loads no ${element} as ${dst.type}`);
  }

  /** What a vector instruction gives, as the bits of its lanes. */
  private lanesOf(instruction: Instruction, dst: Reg): number[] {
    const { op, args, imm = 0, comparison } = instruction;
    const { all } = this;
    const floats = (of: (lane: number) => number) => all.map((lane) => bitsOf(of(lane)));
    const [a, b, c] = args;
    if (op === "load" || op === "loadBlock") return this.loadedLanes(instruction);
    if (op === "broadcast" && instruction.element === "f16") {
      const half = fromF16(this.memory.view.getUint16(this.memory.check(this.at(instruction.address!), 2), true));
      return floats(() => half);
    }
    if (op === "const" || op === "move") return all.map((lane) => this.int(a, lane));
    if (op === "splat") return dst.type === "vi" ? all.map(() => this.number(a) | 0) : floats(() => this.number(a));
    if (op === "lanes") return all.map((lane) => imm + lane);
    if (op === "convert") return floats((lane) => this.int(a, lane));
    if (op === "unpack") {
      const [wide, high] = [imm >= 2, imm & 1];
      return all.map((lane) => {
        const [block, i] = [lane & ~3, lane & 3];
        if (wide) return this.int(i < 2 ? a : b, block + 2 * high + (i & 1));
        return this.int(i & 1 ? b : a, block + 2 * high + (i >> 1));
      });
    }
    if (op === "narrow") {
      if (args.length === 1) return all.map((lane) => narrowed(this.int(a, lane)));
      const half = (i: number) => narrowed(i < this.lanes ? this.int(a, i) : this.int(b, i - this.lanes));
      return all.map((lane) => half(2 * lane) | (half(2 * lane + 1) << 16));
    }
    if (op === "oddLanes") return all.map((lane) => this.int(a, lane | 1));
    if (op === "mulWide") {
      const unsigned = (operand: Operand, lane: number) => BigInt(this.int(operand, lane & ~1) >>> 0);
      return all.map((lane) =>
        Number(BigInt.asIntN(32, (unsigned(a, lane) * unsigned(b, lane)) >> (lane & 1 ? 32n : 0n))),
      );
    }
    if (op === "compare") {
      const value = (operand: Operand, lane: number) =>
        imm === 0 ? this.float(operand, lane) : this.int(operand, lane);
      return all.map((lane) => (compare(comparison!, value(a, lane), value(b, lane)) ? -1 : 0));
    }
    if (op === "select") return all.map((lane) => this.int(this.int(a, lane) ? b : c, lane));
    if (dst.type === "vi") return all.map((lane) => integer(op, this.int(a, lane), this.int(b, lane)));
    if (op === "fma") return floats((lane) => this.float(a, lane) * this.float(b, lane) + this.float(c, lane));
    return floats((lane) => scalar(op, dst, this.float(a, lane), this.float(b, lane)));
  }

  private loadedLanes({ op, args, imm = 0, address, element, count }: Instruction): number[] {
    const { view } = this.memory;
    const from = this.at(address!);
    const width = element === "i8" ? 1 : element === "u16" || element === "bf16" ? 2 : 4;
    const there = Math.min(count ? this.numbers[count.id] : this.lanes, op === "load" ? this.lanes : 4);
    const bits = (place: number) => {
      this.memory.check(place, width);
      if (width === 4) return view.getInt32(place, true);
      if (width === 1) return view.getInt8(place);
      return view.getUint16(place, true) << (element === "bf16" ? 16 : 0);
    };
    const first = op === "load" ? 0 : 4 * imm;
    return this.all.map((lane) => {
      const i = lane - first;
      if (op === "loadBlock" && (i < 0 || i > 3)) return args[0] ? this.int(args[0], lane) : 0;
      return i < there ? bits(from + i * width) : 0;
    });
  }

  private store({ args, address, element, count }: Instruction): void {
    const { view } = this.memory;
    const [width, place] = [element === "u16" ? 2 : 4, this.at(address!)];
    if (args[0].type === "index") {
      const value = this.number(args[0]);
      view.setInt32(this.memory.check(place, element === "i64" ? 8 : 4), value | 0, true);
      if (element === "i64") view.setInt32(place + 4, Math.floor(value / 2 ** 32), true);
      return;
    }
    if (args[0].type === "f32") return void view.setFloat32(this.memory.check(place, 4), this.number(args[0]), true);
    const there = count ? Math.min(this.numbers[count.id], this.lanes) : this.lanes;
    for (let lane = 0; lane < there; lane++) {
      const at = this.memory.check(place + lane * width, width);
      if (width === 2) view.setUint16(at, this.int(args[0], lane) & 0xffff, true);
      else view.setInt32(at, this.int(args[0], lane), true);
    }
  }

  private tile({ op, imm = 0, address }: Instruction): void {
    if (op === "tileBegin") {
      this.tiles = Array.from({ length: 8 }, () => new Uint8Array(TILE_BYTES));
      return;
    }
    if (!this.tiles) throw new Error(`${op} before tileBegin`);
    if (op === "tileEnd") this.tiles = undefined;
    else if (op === "tileZero") this.tiles[imm].fill(0);
    else if (op === "tileMultiply") multiply(this.tiles[imm & 7], this.tiles[(imm >> 3) & 7], this.tiles[imm >> 6]);
    else {
      const { base, index, disp } = address!;
      for (let row = 0; row < TILE_ROWS; row++) {
        const place = this.numbers[base.id] + disp + row * this.numbers[index!.id];
        const line = new Uint8Array(this.memory.view.buffer, this.memory.check(place, 64), 64);
        const mine = this.tiles[imm].subarray(64 * row, 64 * row + 64);
        if (op === "tileLoad" || op === "tileStream") mine.set(line);
        else line.set(mine);
      }
    }
  }
}

/** Bits of an f32 as those of a bf16: to nearest even, subnormal numbers to 0. */
function narrowed(bits: number): number {
  const magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return ((bits >>> 16) | 0x40) & 0xffff;
  if (magnitude < 0x00800000) return (bits >>> 16) & 0x8000;
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff;
}

/** sum += a·b: the even and the odd products of a row are summed apart, in order, each rounded once. */
function multiply(sum: Uint8Array, a: Uint8Array, b: Uint8Array): void {
  const to = new Float32Array(sum.buffer);
  const [left, right] = [a, b].map((tile) => {
    const halves = new Uint16Array(tile.buffer);
    return new Float32Array(Uint32Array.from(halves, (half) => half << 16).buffer).map(flushed);
  });
  for (let row = 0; row < TILE_ROWS; row++) {
    for (let column = 0; column < 16; column++) {
      let [even, odd] = [0, 0];
      for (let i = 0; i < 16; i++) {
        even = flushed(Math.fround(left[row * 32 + 2 * i] * right[i * 32 + 2 * column] + even));
        odd = flushed(Math.fround(left[row * 32 + 2 * i + 1] * right[i * 32 + 2 * column + 1] + odd));
      }
      const place = row * 16 + column;
      to[place] = flushed(Math.fround(to[place] + flushed(Math.fround(even + odd))));
    }
  }
}

/** The sum of lanes as vector units make it: one half added to the other, again and again, each sum rounded. */
function halves(lanes: readonly number[]): number {
  if (lanes.length === 1) return lanes[0];
  const half = lanes.length / 2;
  return halves(Array.from({ length: half }, (_, i) => Math.fround(lanes[i] + lanes[half + i])));
}

const oneFloat = new Float32Array(1);
const itsBits = new Int32Array(oneFloat.buffer);

function bitsOf(value: number): number {
  oneFloat[0] = value;
  return itsBits[0];
}

function compare(comparison: Condition["comparison"], left: number, right: number): boolean {
  if (comparison === "lt") return left < right;
  if (comparison === "le") return left <= right;
  if (comparison === "gt") return left > right;
  if (comparison === "ge") return left >= right;
  return (comparison === "eq") === (left === right);
}

function integer(op: Instruction["op"], a: number, b: number): number {
  if (op === "add") return (a + b) | 0;
  if (op === "sub") return (a - b) | 0;
  if (op === "mul") return Math.imul(a, b);
  if (op === "and") return a & b;
  if (op === "or") return a | b;
  if (op === "xor") return a ^ b;
  if (op === "shl") return a << b;
  if (op === "shr") return (a >>> b) | 0;
  if (op === "sar") return a >> b;
  throw new TypeError(`the model knows no ${op} of integers`);
}

function scalar(op: Instruction["op"], dst: Reg, a: number, b = 0): number {
  if (op === "const" || op === "move") return a;
  if (op === "add") return a + b;
  if (op === "sub") return a - b;
  if (op === "mul") return a * b;
  if (op === "div") return a / b;
  if (op === "max" && dst.type === "index") return Math.max(a, b);
  // The second where either is NaN, as processors have it.
  if (op === "max") return Number.isNaN(a) || Number.isNaN(b) ? b : Math.max(a, b);
  if (op === "min" && dst.type === "index") return Math.min(a, b);
  if (dst.type === "index") return integer(op, a, b);
  throw new TypeError(`the model knows no ${op} of ${dst.type}`);
}

/** Calls a kernel with its block of arguments at `args`. @throws where it touches what was not allocated */
export function runModel(memory: KernelMemory, code: KernelCode, args: number, begin: number, end: number): void {
  const model = new Model(memory, code, [args, begin, end]);
  model.run(code.body);
  model.finish();
}
