// Philox 4x32-10 (Salmon et al., 2011) for dropout: every element's word follows from its place alone.
import type { RandomKey } from "../../device.ts";
import type { Builder } from "../lang/builder.ts";
import type { Index, Pointer } from "../lang/values.ts";
import { VF, type VI } from "../lang/values.ts";

const MULTIPLIERS = [0xd2511f53, 0xcd9e8d57] as const;
const WEYL = [0x9e3779b9, 0xbb67ae85] as const;
const ROUNDS = 10;

/** Words of the block that {@link writeDropout} fills: two keys a round, then the stream and the threshold. */
export const DROPOUT_WORDS = 2 * ROUNDS + 2;
const STREAM = 2 * ROUNDS;
const THRESHOLD = STREAM + 1;

/** Elements of one draw. */
export const spanOf = (lanes: number): number => 4 * lanes;

/** What kernels need to know of a dropout with rate 0 < p < 1. */
export function writeDropout(words: Uint32Array, key: RandomKey, p: number): void {
  for (let round = 0; round < ROUNDS; round++) {
    words[2 * round] = key.seed[0] + Math.imul(round, WEYL[0]);
    words[2 * round + 1] = key.seed[1] + Math.imul(round, WEYL[1]);
  }
  words[STREAM] = key.stream;
  // Kept where word ≥ p·2³², that is where word > ⌈p·2³²⌉ − 1; both with their sign bit flipped, for signed comparison.
  words[THRESHOLD] = (Math.ceil(p * 2 ** 32) - 1) ^ 0x80000000;
}

/** Makes the code that draws, before the loop that does: what its draws share stays in registers. */
export function dropoutDraws(k: Builder, constants: Pointer): DropoutDraws {
  // A counter gives the words of four neighbours; the even lanes count, so that pairing their words leaves those of
  // neighbouring elements next to each other, whole 128-bit blocks at a time.
  const lane = k.laneNumbers();
  const numbers = lane.shr(2).add(
    lane
      .shr(1)
      .and(1)
      .mul(k.lanes / 4),
  );
  const [even, odd] = MULTIPLIERS.map((factor) => k.variable(k.vectorInt(factor | 0)));
  const block = constants.fixed();
  const word = (index: number) => block.at(index).broadcast().bits();
  const unpack = (a: VI, b: VI, imm: number) => new VF(k, k.result("unpack", "vf", [a.reg, b.reg], imm));
  return {
    span: spanOf(k.lanes),
    mayDrop(place, i) {
      // A draw is one long chain of products, so two are made side by side.
      const draws = [0, 1].map((half) => ({
        c0: numbers.add(
          i
            .sar(2)
            .add((half * k.lanes) / 2)
            .splat(),
        ),
        c1: place.at(1).broadcast().bits(),
        c2: place.broadcast().bits(),
        c3: word(STREAM),
      }));
      for (let round = 0; round < ROUNDS; round++) {
        for (const c of draws) {
          const [first, second] = [c.c0.mulWide(even!), c.c2.mulWide(odd!)];
          // Only even lanes count: there a product's low half lies as it is.
          c.c0 = second
            .oddLanes()
            .xor(c.c1)
            .xor(word(2 * round));
          c.c2 = first
            .oddLanes()
            .xor(c.c3)
            .xor(word(2 * round + 1));
          [c.c1, c.c3] = [second, first];
        }
      }
      return draws.flatMap(({ c0, c1, c2, c3 }) =>
        [0, 1].map((half) => {
          const drawn = unpack(unpack(c0, c1, half).bits(), unpack(c2, c3, half).bits(), 2);
          const kept = drawn.bits().xor(-0x80000000).compare("gt", word(THRESHOLD));
          return (value: VF) => kept.select(value, k.zero());
        }),
      );
    },
  };
}

export interface DropoutDraws {
  readonly span: number;
  /**
   * Draws for the elements i … i + span of the row of a place (sequence, token); i is a multiple of 4. Gives for each of
   * their vectors the function that puts 0 where an element is dropped.
   */
  readonly mayDrop: (place: Pointer, i: Index) => ((value: VF) => VF)[];
}
