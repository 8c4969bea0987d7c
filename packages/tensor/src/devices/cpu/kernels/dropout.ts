// Inverted dropout with Philox 4x32-10 (Salmon et al., 2011): every element's word follows from its place alone.
import type { Builder } from "../lang/builder.ts";
import { defineKernel } from "../lang/kernel.ts";
import { transposeBlocks } from "../lang/math.ts";
import type { Index, VF, VI } from "../lang/values.ts";
import { rowPointer } from "./rows.ts";

const MULTIPLIERS = [0xd2511f53, 0xcd9e8d57];
const WEYL = [0x9e3779b9, 0xbb67ae85];

/** Upper 32 bits of the unsigned products of all lanes with a constant, from 16-bit halves. */
function mulHigh(x: VI, factor: number): VI {
  const low = factor & 0xffff;
  const high = factor >>> 16;
  const xLow = x.and(0xffff);
  const xHigh = x.shr(16);
  const middle = xHigh.mul(low).add(xLow.mul(low).shr(16));
  const carry = xLow.mul(high).add(middle.and(0xffff));
  return xHigh.mul(high).add(middle.shr(16)).add(carry.shr(16));
}

/** The four words of each lane's counter. */
function philox(counter: readonly [VI, VI, VI, VI], key: readonly [VI, VI]): [VI, VI, VI, VI] {
  let [c0, c1, c2, c3] = counter;
  let [k0, k1] = key;
  for (let round = 0; round < 10; round++) {
    const [high0, low0] = [mulHigh(c0, MULTIPLIERS[0]!), c0.mul(MULTIPLIERS[0]! | 0)];
    const [high1, low1] = [mulHigh(c2, MULTIPLIERS[1]!), c2.mul(MULTIPLIERS[1]! | 0)];
    [c0, c1, c2, c3] = [high1.xor(c1).xor(k0), low1, high0.xor(c3).xor(k1), low0];
    k0 = k0.add(WEYL[0]! | 0);
    k1 = k1.add(WEYL[1]! | 0);
  }
  return [c0, c1, c2, c3];
}

/** Words of the constants block of the dropout kernel. */
export const DROPOUT_CONSTANTS = { key0: 0, key1: 1, stream: 2, threshold: 3 } as const;
export const DROPOUT_WORDS = 4;

/**
 * out = x · scale where the element's word, its sign bit flipped, is greater than the threshold as signed numbers, else 0.
 * `places` is [rows, 2]: sequence and token of a row. Items are rows of n elements.
 */
export const dropoutKernel = defineKernel(
  "dropout",
  {
    ...{ n: "index", scale: "f32", places: "f32*", constants: "f32*" },
    ...{ x: "f32*", sx: "index", out: "f32*", so: "index" },
  },
  (k: Builder, args) => {
    const { lanes } = k;
    k.loop({ from: k.begin, to: k.end }, (row) => {
      const x = rowPointer(args.x, row, args.sx);
      const out = rowPointer(args.out, row, args.so);
      const place = args.places.at(row.mul(2)).fixed();
      const constants = args.constants.fixed();
      const word = (index: number) => constants.at(index).broadcast().bits();
      // A counter gives the words of four neighbours. Lanes count so that transposing their words in blocks of four
      // leaves those of neighbouring elements next to each other.
      const lane = k.laneNumbers();
      const numbers = lane
        .and(3)
        .mul(lanes / 4)
        .add(lane.shr(2));
      const four = (i: Index, rest?: Index): void => {
        const words = philox(
          [
            ...[numbers.add(i.sar(2).splat()), place.at(1).broadcast().bits()],
            ...[place.broadcast().bits(), word(DROPOUT_CONSTANTS.stream)],
          ] as [VI, VI, VI, VI],
          [word(DROPOUT_CONSTANTS.key0), word(DROPOUT_CONSTANTS.key1)],
        ).map((value) => value.float()) as [VF, VF, VF, VF];
        transposeBlocks(k, words).forEach((drawn, v) => {
          const count = rest?.sub(v * lanes);
          const kept = drawn.bits().xor(-0x80000000).compare("gt", word(DROPOUT_CONSTANTS.threshold));
          const value = x
            .at(i)
            .at(v * lanes)
            .load(count)
            .mul(args.scale.splat());
          out
            .at(i)
            .at(v * lanes)
            .store(kept.select(value, k.zero()), count);
        });
      };
      const whole = args.n.alignDown(4 * lanes);
      k.loop({ to: whole, step: 4 * lanes }, (i) => four(i));
      const rest = args.n.sub(whole);
      k.if(rest.gt(0), () => four(whole, rest));
    });
  },
);
