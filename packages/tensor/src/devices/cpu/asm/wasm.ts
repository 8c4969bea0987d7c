/** WebAssembly's binary format: a writer of function bodies and the module around one. */

/** Value types. */
export const VALUE = { i32: 0x7f, f32: 0x7d, v128: 0x7b } as const;
export type ValueType = keyof typeof VALUE;

/** Instructions of one byte. */
export const PLAIN = {
  else: 0x05,
  end: 0x0b,
  select: 0x1b,
  "i32.eq": 0x46,
  "i32.ne": 0x47,
  "i32.lt_s": 0x48,
  "i32.gt_s": 0x4a,
  "i32.le_s": 0x4c,
  "i32.ge_s": 0x4e,
  "f32.lt": 0x5d,
  "f32.gt": 0x5e,
  "i32.add": 0x6a,
  "i32.sub": 0x6b,
  "i32.mul": 0x6c,
  "i32.and": 0x71,
  "i32.or": 0x72,
  "i32.xor": 0x73,
  "i32.shl": 0x74,
  "i32.shr_s": 0x75,
  "i32.shr_u": 0x76,
  "f32.sqrt": 0x91,
  "f32.add": 0x92,
  "f32.sub": 0x93,
  "f32.mul": 0x94,
  "f32.div": 0x95,
  "i64.extend_i32_s": 0xac,
  "f32.convert_i32_s": 0xb2,
} as const;

/** Loads and stores: opcode and the exponent of the natural alignment. */
export const MEMORY = {
  "i32.load": [0x28, 2],
  "f32.load": [0x2a, 2],
  "i32.load8_s": [0x2c, 0],
  "i32.load8_u": [0x2d, 0],
  "i32.load16_s": [0x2e, 1],
  "i32.load16_u": [0x2f, 1],
  "i32.store": [0x36, 2],
  "i64.store": [0x37, 3],
  "f32.store": [0x38, 2],
  "i32.store8": [0x3a, 0],
  "i32.store16": [0x3b, 1],
} as const;

/** Vector loads and stores, prefix FD. */
export const VECTOR_MEMORY = {
  "v128.load": [0x00, 4],
  "v128.load16x4_s": [0x03, 3],
  "v128.load16x4_u": [0x04, 3],
  "v128.load16_splat": [0x08, 1],
  "v128.load32_splat": [0x09, 2],
  "v128.store": [0x0b, 4],
  "v128.load8_lane": [0x54, 0],
  "v128.load16_lane": [0x55, 1],
  "v128.load32_lane": [0x56, 2],
  "v128.store16_lane": [0x59, 1],
  "v128.store32_lane": [0x5a, 2],
  "v128.store64_lane": [0x5b, 3],
  "v128.load32_zero": [0x5c, 2],
  "v128.load64_zero": [0x5d, 3],
} as const;

/** Vector instructions without immediates, prefix FD. */
export const VECTOR = {
  "i8x16.swizzle": 0x0e,
  "i32x4.splat": 0x11,
  "f32x4.splat": 0x13,
  "i8x16.eq": 0x23,
  "i32x4.eq": 0x37,
  "i32x4.gt_s": 0x3b,
  "f32x4.eq": 0x41,
  "f32x4.ne": 0x42,
  "f32x4.lt": 0x43,
  "f32x4.gt": 0x44,
  "f32x4.le": 0x45,
  "f32x4.ge": 0x46,
  "v128.and": 0x4e,
  "v128.andnot": 0x4f,
  "v128.or": 0x50,
  "v128.xor": 0x51,
  "v128.bitselect": 0x52,
  "f32x4.floor": 0x68,
  "f32x4.nearest": 0x6a,
  "i8x16.narrow_i16x8_s": 0x65,
  "i32x4.extadd_pairwise_i16x8_s": 0x7e,
  "i16x8.narrow_i32x4_s": 0x85,
  "i16x8.narrow_i32x4_u": 0x86,
  "i16x8.extend_low_i8x16_s": 0x87,
  "i16x8.extend_low_i8x16_u": 0x89,
  "i16x8.extmul_low_i8x16_s": 0x9c,
  "i16x8.extmul_high_i8x16_s": 0x9d,
  "i32x4.extend_low_i16x8_s": 0xa7,
  "i32x4.extend_low_i16x8_u": 0xa9,
  "i32x4.shl": 0xab,
  "i32x4.shr_s": 0xac,
  "i32x4.shr_u": 0xad,
  "i32x4.add": 0xae,
  "i32x4.sub": 0xb1,
  "i32x4.mul": 0xb5,
  "i32x4.min_s": 0xb6,
  "i32x4.max_s": 0xb8,
  "i64x2.extmul_low_i32x4_u": 0xde,
  "f32x4.sqrt": 0xe3,
  "f32x4.add": 0xe4,
  "f32x4.sub": 0xe5,
  "f32x4.mul": 0xe6,
  "f32x4.div": 0xe7,
  "f32x4.pmin": 0xea,
  "f32x4.pmax": 0xeb,
  "i32x4.trunc_sat_f32x4_s": 0xf8,
  "f32x4.convert_i32x4_s": 0xfa,
} as const;

export type PlainName = keyof typeof PLAIN;
export type MemoryName = keyof typeof MEMORY;
export type VectorName = keyof typeof VECTOR;
export type VectorMemoryName = keyof typeof VECTOR_MEMORY;

const EMPTY_BLOCK = 0x40;

function unsigned(value: number): number[] {
  const bytes: number[] = [];
  do {
    const low = value % 128;
    value = Math.floor(value / 128);
    bytes.push(value > 0 ? low | 0x80 : low);
  } while (value > 0);
  return bytes;
}

function signed(value: number): number[] {
  const bytes: number[] = [];
  for (;;) {
    const low = value & 0x7f;
    value >>= 7;
    if ((value === 0 && (low & 0x40) === 0) || (value === -1 && (low & 0x40) !== 0)) return [...bytes, low];
    bytes.push(low | 0x80);
  }
}

/** Writes a function's instructions. */
export class WasmWriter {
  readonly bytes: number[] = [];

  op(name: PlainName): void {
    this.bytes.push(PLAIN[name]);
  }

  vector(name: VectorName): void {
    this.bytes.push(0xfd, ...unsigned(VECTOR[name]));
  }

  get(local: number): void {
    this.bytes.push(0x20, ...unsigned(local));
  }

  set(local: number): void {
    this.bytes.push(0x21, ...unsigned(local));
  }

  tee(local: number): void {
    this.bytes.push(0x22, ...unsigned(local));
  }

  i32(value: number): void {
    this.bytes.push(0x41, ...signed(value | 0));
  }

  f32(value: number): void {
    this.bytes.push(0x43, ...new Uint8Array(Float32Array.of(value).buffer));
  }

  v128(bytes: Uint8Array): void {
    this.bytes.push(0xfd, 0x0c, ...bytes);
  }

  /** Picks 16 of the 32 bytes of two vectors. */
  shuffle(lanes: readonly number[]): void {
    this.bytes.push(0xfd, 0x0d, ...lanes);
  }

  /** Lane 0 as f32. */
  firstLane(): void {
    this.bytes.push(0xfd, 0x1f, 0);
  }

  memory(name: MemoryName, offset: number): void {
    const [opcode, align] = MEMORY[name];
    this.bytes.push(opcode, align, ...unsigned(offset));
  }

  vectorMemory(name: VectorMemoryName, offset: number, lane?: number): void {
    const [opcode, align] = VECTOR_MEMORY[name];
    this.bytes.push(0xfd, ...unsigned(opcode), align, ...unsigned(offset));
    if (lane !== undefined) this.bytes.push(lane);
  }

  /** i32.atomic.rmw.xchg */
  exchange(offset: number): void {
    this.bytes.push(0xfe, 0x41, 2, ...unsigned(offset));
  }

  if(): void {
    this.bytes.push(0x04, EMPTY_BLOCK);
  }

  loop(): void {
    this.bytes.push(0x03, EMPTY_BLOCK);
  }

  /** Jumps to the start of the loop, or the end of the block, `depth` levels out, when the top of the stack is not 0. */
  branchIf(depth: number): void {
    this.bytes.push(0x0d, ...unsigned(depth));
  }
}

const name = (text: string): number[] => {
  const bytes = new TextEncoder().encode(text);
  return [...unsigned(bytes.length), ...bytes];
};
const list = (items: readonly (readonly number[])[]): number[] => [...unsigned(items.length), ...items.flat()];
const section = (id: number, content: readonly number[]): number[] => [id, ...unsigned(content.length), ...content];

/**
 * A module that imports `env.memory` (shared, 1 to 65,536 pages) and exports one function `kernel(i32, i32, i32)`.
 * @param locals types of the function's locals after its three parameters
 */
export function wasmModule(locals: readonly ValueType[], body: readonly number[]): Uint8Array<ArrayBuffer> {
  const runs: number[][] = [];
  for (let i = 0; i < locals.length; ) {
    let end = i;
    while (end < locals.length && locals[end] === locals[i]) end++;
    runs.push([...unsigned(end - i), VALUE[locals[i]]]);
    i = end;
  }
  const code = [...list(runs), ...body, PLAIN.end];
  return Uint8Array.from([
    ...[0x00, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
    ...section(1, list([[0x60, ...list([[VALUE.i32], [VALUE.i32], [VALUE.i32]]), 0]])),
    ...section(2, list([[...name("env"), ...name("memory"), 0x02, 0x03, ...unsigned(1), ...unsigned(65536)]])),
    ...section(3, list([[0]])),
    ...section(7, list([[...name("kernel"), 0x00, 0]])),
    ...section(10, list([[...unsigned(code.length), ...code]])),
  ]);
}
