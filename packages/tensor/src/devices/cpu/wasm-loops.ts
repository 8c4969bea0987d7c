// WebAssembly loops written by hand, instruction by instruction: what the kernels of that tier are held against.
import { type ValueType, WasmWriter, wasmModule } from "./asm/wasm.ts";

/** What one thread reaches in loops that do nothing else, 10⁹ operations (a multiplication, an addition) a second. */
export interface WasmLoops {
  /** Multiply, then add, in registers. */
  readonly registers: number;
  /** The loop of a matrix product: a tile of sums in registers, its factors read in order from the first-level cache. */
  readonly product: number;
}

/** Places in the loops' own memory. */
export const PLACES = { sums: 1024, a: 65_536, b: 131_072 } as const;
/** Inner elements of a tile. */
export const DEPTH = 256;
/** Rows and vectors of the tiles that are tried: which one is best differs by compiler. */
export const TILES: readonly (readonly [rows: number, vectors: number])[] = [
  [2, 4],
  [3, 4],
  [4, 3],
  [4, 2],
];
const LANES = 4;
/** As many as 16 registers hold besides the factor and a product. */
const REGISTER_SUMS = 14;

/** The three parameters of a module's function; other locals follow. */
const [FIRST, SECOND, THIRD, LOCALS] = [0, 1, 2, 3];

const vectors = (count: number): ValueType[] => Array(count).fill("v128");

/** Counts a local down and jumps back to the start of the loop until it is 0. */
function countDown(w: WasmWriter, local: number): void {
  w.get(local);
  w.i32(1);
  w.op("i32.sub");
  w.tee(local);
  w.branchIf(0);
  w.op("end");
}

function advance(w: WasmWriter, local: number, bytes: number): void {
  w.get(local);
  w.i32(bytes);
  w.op("i32.add");
  w.set(local);
}

/** (rounds, –, –): each of some sums becomes sum · 0.5 + 0.5, `rounds` times. */
export function registerModule(): Uint8Array<ArrayBuffer> {
  const w = new WasmWriter();
  const half = LOCALS + REGISTER_SUMS;
  w.f32(0.5);
  w.vector("f32x4.splat");
  w.set(half);
  w.loop();
  for (let sum = LOCALS; sum < LOCALS + REGISTER_SUMS; sum++) {
    w.get(sum);
    w.get(half);
    w.vector("f32x4.mul");
    w.get(half);
    w.vector("f32x4.add");
    w.set(sum);
  }
  countDown(w, FIRST);
  for (let sum = 0; sum < REGISTER_SUMS; sum++) {
    w.i32(PLACES.sums);
    w.get(LOCALS + sum);
    w.vectorMemory("v128.store", 16 * sum);
  }
  return wasmModule(vectors(REGISTER_SUMS + 1), w.bytes);
}

/**
 * (rounds, –, –): `rounds` times sums[r][v] += Σ over {@link DEPTH} of a[i][r] · b[i][v], the last round's sums stored.
 */
export function productModule(rows: number, columns: number): Uint8Array<ArrayBuffer> {
  const w = new WasmWriter();
  const sum = (r: number, v: number): number => LOCALS + r * columns + v;
  const right = sum(rows, 0);
  const left = right + columns;
  const count = left + 1;
  // Two addresses in the parameters that are free.
  const [a, b] = [SECOND, THIRD];
  w.loop();
  for (const [local, place] of [
    [a, PLACES.a],
    [b, PLACES.b],
    [count, DEPTH],
  ]) {
    w.i32(place!);
    w.set(local!);
  }
  w.loop();
  for (let v = 0; v < columns; v++) {
    w.get(b);
    w.vectorMemory("v128.load", 16 * v);
    w.set(right + v);
  }
  for (let r = 0; r < rows; r++) {
    w.get(a);
    w.vectorMemory("v128.load32_splat", 4 * r);
    w.set(left);
    for (let v = 0; v < columns; v++) {
      w.get(left);
      w.get(right + v);
      w.vector("f32x4.mul");
      w.get(sum(r, v));
      w.vector("f32x4.add");
      w.set(sum(r, v));
    }
  }
  advance(w, a, 4 * rows);
  advance(w, b, 16 * columns);
  countDown(w, count);
  countDown(w, FIRST);
  for (let i = 0; i < rows * columns; i++) {
    w.i32(PLACES.sums);
    w.get(LOCALS + i);
    w.vectorMemory("v128.store", 16 * i);
  }
  return wasmModule([...vectors(rows * columns + columns + 1), "i32"], w.bytes);
}

/** A module's function and the memory it works in. */
export function instantiate(module: Uint8Array<ArrayBuffer>): { run: (rounds: number) => void; floats: Float32Array } {
  const memory = new WebAssembly.Memory({ initial: 4, maximum: 65_536, shared: true });
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(module), { env: { memory } });
  const kernel = exports.kernel as (first: number, second: number, third: number) => void;
  return { run: (rounds) => kernel(rounds, 0, 0), floats: new Float32Array(memory.buffer) };
}

/** Operations of a measurement, and how often it is made: compilers translate what is hot once more, and better. */
const OPERATIONS = 2e8;
const REPEATS = 12;

/** Operations a nanosecond of a function that makes `operations` a round. */
function rate(module: Uint8Array<ArrayBuffer>, operations: number): number {
  const { run } = instantiate(module);
  const rounds = Math.ceil(OPERATIONS / operations);
  // Short calls first, so that a function rather than its loop is seen to be hot.
  for (let i = 0; i < 1000; i++) run(1);
  let least = Number.POSITIVE_INFINITY;
  for (let i = 0; i < REPEATS; i++) {
    const started = performance.now();
    run(rounds);
    least = Math.min(least, performance.now() - started);
  }
  return (rounds * operations) / least / 1e6;
}

/** Measures the loops on this thread for about a second; nothing else should run meanwhile. */
export function measureWasmLoops(): WasmLoops {
  const products = TILES.map(([rows, columns]) =>
    rate(productModule(rows, columns), 2 * LANES * rows * columns * DEPTH),
  );
  return { registers: rate(registerModule(), 2 * LANES * REGISTER_SUMS), product: Math.max(...products) };
}
