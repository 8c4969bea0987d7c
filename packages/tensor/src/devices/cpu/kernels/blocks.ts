/**
 * Quantised blocks inside kernels: one group of 32 elements at a time, as bytes and the factors that turn sums of their
 * products into numbers. What each type means is defined in `quantized/decode.ts`.
 */

import type { BlockType } from "../../../dtype.ts";
import type { Builder } from "../lang/builder.ts";
import type { Target } from "../lang/target.ts";
import type { Pointer, VF, VI } from "../lang/values.ts";

/** Elements that share a scale of the activations they are multiplied with. */
export const GROUP = 32;

/** A group's elements are `scale · bytes + offset · constant`, vector by vector. */
export interface Group {
  readonly bytes: readonly VI[];
  readonly scale: readonly VF[];
  /** Factor of the constant; absent where it is `scale` itself. */
  readonly offset?: readonly VF[];
}

/** What reading needs besides the block. */
export interface Aids {
  /** 256 bytes of this thread's own. */
  readonly scratch: Pointer;
  /** f32 [65,536]: the value of every half-precision number. */
  readonly halves: Pointer;
}

export interface BlockReader {
  /** Groups in a block. */
  readonly groups: 1 | 8;
  readonly bytes: number;
  /** Whether bytes are −128 to 127, not 0 to 127. */
  readonly signed: boolean;
  /** Whether each half of a group has a scale of its own. */
  readonly halves?: boolean;
  /** What each element's bytes are off by, in units of `offset`; 0: nothing. */
  readonly constant: number;
  /**
   * Reads a block's groups in order, one each time the generator is asked; code is laid out in that order.
   */
  read(k: Builder, block: Pointer, aids: Aids): Generator<Group>;
}

/** Vectors that 32 bytes take. */
export const partsOf = (target: Target): number => GROUP / (4 * target.lanes);

const parts = <T>(k: Builder, make: (part: number) => T): T[] =>
  Array.from({ length: partsOf(k.target) }, (_, part) => make(part));
/** The same factor for every part. */
const every = (k: Builder, factor: VF): VF[] => parts(k, () => factor);
/** `bytes` of memory from `at` on, as the vectors of a group. */
const loadGroup = (k: Builder, at: Pointer): VI[] =>
  parts(k, (part) =>
    at
      .atByte(part * 4 * k.lanes)
      .as("i32")
      .loadInt(),
  );
/** A block's half-precision number, as f32 in all lanes: looked up, which leaves the vector units to the products. */
const half = (block: Pointer, at: number, { halves }: Aids): VF =>
  halves.at(block.atByte(at).as("u16").loadIndex()).broadcast();

const LOW = 0x0f0f0f0f;

/** 16 in the bytes of a part whose bit is set among 32 bits of memory. */
function fifthBits(k: Builder, at: Pointer, part: number): VI {
  const first = part * 4 * k.lanes;
  const order = k.bytes((i) => (first + i) >> 3);
  const mask = k.bytes((i) => 1 << (i & 7));
  const bits = at.as("i32").broadcastInt().shuffleBytes(order);
  return bits.and(mask).equalBytes(mask).and(0x10101010);
}

/** Blocks of one group whose numbers of 4 or 5 bits have one scale, and a minimum or a fixed offset. */
function smallBlocks(bytes: number, bits: 4 | 5, offset: "minimum" | number): BlockReader {
  const minimum = offset === "minimum";
  const fifth = minimum ? 4 : 2;
  return {
    ...{ groups: 1, bytes, signed: false, constant: minimum ? 1 : -offset },
    *read(k, block, aids) {
      const numbers = block.atByte(fifth + (bits === 5 ? 4 : 0));
      const low = parts(k, (part) => numbers.nibbles(part));
      const all = bits === 4 ? low : low.map((x, part) => x.or(fifthBits(k, block.atByte(fifth), part)));
      const scale = every(k, half(block, 0, aids));
      yield { bytes: all, scale, offset: minimum ? every(k, half(block, 2, aids)) : undefined };
    },
  };
}

/**
 * The eight 6-bit scales and minima of `q4_k` and `q5_k`, unpacked, multiplied by the block's `d` and `−dmin`, and left
 * in `scratch` as 8 + 8 f32.
 */
function unpackScales(k: Builder, block: Pointer, aids: Aids): void {
  const packed = block.atByte(4).broadcastBlock();
  const pick = (order: readonly number[]): VI => packed.shuffleBytes(k.bytes((i) => order[i & 15]));
  const none = 128;
  // Scales 0–3, 4–7, minima 0–3, 4–7: the low bits of each, and the two bits above that some keep elsewhere.
  const low = pick([0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 8, 9, 10, 11]);
  const high = pick([none, none, none, none, 0, 1, 2, 3, none, none, none, none, 4, 5, 6, 7]);
  const quarter =
    (...masks: number[]) =>
    (i: number) =>
      masks[(i >> 2) & 3];
  const numbers = low
    .and(k.bytes(quarter(63, 15, 63, 0)))
    .or(low.shr(4).and(k.bytes(quarter(0, 0, 0, 15))))
    .or(high.shr(2).and(0x30303030));
  const factors = [half(block, 0, aids), half(block, 2, aids).neg()];
  factors.forEach((factor, i) => {
    for (let j = 0; j < 8; j += k.lanes) {
      const eight = i === 0 && j === 0 ? numbers : numbers.shuffleBytes(k.bytes((b) => (b + 8 * i + j) & 15));
      aids.scratch
        .as("f32")
        .at(8 * i + j)
        .store(eight.widenBytes().toFloat().mul(factor));
    }
  });
}

/** Eight groups whose low four bits lie in 128 bytes, pairs of groups sharing 32, and the fifth in 32 bytes before. */
function kBlocks(bits: 4 | 5): BlockReader {
  const numbers = bits === 4 ? 16 : 48;
  return {
    ...{ groups: 8, bytes: numbers + 128, signed: false, constant: 1 },
    *read(k, block, aids) {
      unpackScales(k, block, aids);
      const factors = aids.scratch.as("f32");
      for (let j = 0; j < 8; j++) {
        const both = loadGroup(k, block.atByte(numbers + 32 * (j >> 1)));
        const low = both.map((x) => (j & 1 ? x.shr(4) : x).and(LOW));
        const fifth = bits === 4 ? undefined : loadGroup(k, block.atByte(16));
        const bytes = low.map((x, part) => {
          if (!fifth) return x;
          const bit = j < 4 ? fifth[part].shl(4 - j) : j === 4 ? fifth[part] : fifth[part].shr(j - 4);
          return x.or(bit.and(0x10101010));
        });
        yield { bytes, scale: every(k, factors.at(j).broadcast()), offset: every(k, factors.at(8 + j).broadcast()) };
      }
    },
  };
}

const Q6K: BlockReader = {
  ...{ groups: 8, bytes: 210, signed: false, halves: true, constant: -32 },
  *read(k, block, aids) {
    const d = half(block, 208, aids);
    const scales = block.atByte(192).broadcastBlock();
    const factors = aids.scratch.as("f32");
    for (let j = 0; j < 16; j += k.lanes) {
      const some = j === 0 ? scales : scales.shuffleBytes(k.bytes((b) => (b + j) & 15));
      factors.at(j).store(some.widenBytes(true).toFloat().mul(d));
    }
    for (let j = 0; j < 8; j++) {
      const [side, group] = [j >> 2, j & 3];
      const low = loadGroup(k, block.atByte(64 * side + 32 * (group & 1)));
      const high = loadGroup(k, block.atByte(128 + 32 * side));
      const bytes = low.map((x, part) => {
        const above = group === 0 ? high[part].shl(4) : group === 1 ? high[part].shl(2) : high[part];
        const upper = (group === 3 ? above.shr(2) : above).and(0x30303030);
        return (group >= 2 ? x.shr(4) : x).and(LOW).or(upper);
      });
      // Sixteen elements share a scale: 128 bits of the bytes, so 128 bits of the sums.
      const four = factors.at(4 * (j >> 1)).broadcastBlock();
      const scale = parts(k, (part) => {
        const of = (i: number) => 2 * (j & 1) + ((4 * k.lanes * part + i) >> 4);
        return four.shuffleBytes(k.bytes((i) => 4 * of(i) + (i & 3))).float();
      });
      yield { bytes, scale };
    }
  },
};

const Q80: BlockReader = {
  ...{ groups: 1, bytes: 34, signed: true, constant: 0 },
  *read(k, block, aids) {
    yield { bytes: loadGroup(k, block.atByte(2)), scale: every(k, half(block, 0, aids)) };
  },
};

export const blockReaders: { readonly [K in BlockType]: BlockReader } = {
  q4_0: smallBlocks(18, 4, 8),
  q4_1: smallBlocks(20, 4, "minimum"),
  q5_0: smallBlocks(22, 5, 16),
  q5_1: smallBlocks(24, 5, "minimum"),
  q8_0: Q80,
  q4_k: kBlocks(4),
  q5_k: kBlocks(5),
  q6_k: Q6K,
};
