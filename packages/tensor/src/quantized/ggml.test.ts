import { expect, test } from "bun:test";
import fc from "fast-check";
import { BLOCKS } from "../dtype.ts";
import { decodeBlocks } from "./decode.ts";
import { encodeFileBlocks, FILE_BLOCKS } from "./ggml.ts";
import fixture from "./testdata/ggml-blocks.json" with { type: "json" };

const bytesOf = (base64: string): Uint8Array<ArrayBuffer> => Uint8Array.from(Buffer.from(base64, "base64"));

test.each([...FILE_BLOCKS])("%s blocks are those of ggml's reference functions, byte for byte", (type) => {
  const values = new Float32Array(bytesOf(fixture.values).buffer);
  expect(encodeFileBlocks(type, values)).toEqual(bytesOf(fixture[type]));
});

/** Levels between the ends of a block's range, and whether that range is symmetric around 0. */
const LEVELS = { q4_0: 8, q5_0: 16, q5_1: 31 };

test.each([...FILE_BLOCKS])("%s keeps every element within a step", (type) => {
  const value = fc.float({ noNaN: true, noDefaultInfinity: true, min: -1000, max: 1000 });
  fc.assert(
    fc.property(fc.array(value, { minLength: 64, maxLength: 64 }), (list) => {
      const values = Float32Array.from(list);
      const bytes = encodeFileBlocks(type, values);
      expect(bytes.length).toBe(2 * BLOCKS[type].bytes);
      const back = decodeBlocks(type, bytes, 0, 64);
      for (let i = 0; i < 64; i++) {
        const block = values.subarray(i & 32, (i & 32) + 32);
        const greatest = Math.max(...block.map(Math.abs));
        const range = type === "q5_1" ? Math.max(...block) - Math.min(...block) : greatest;
        // A step: with a lowest level that is one further from 0 than the highest, the other end is a whole step off.
        const bound = range / LEVELS[type] + greatest * 2 ** -10 + 2 ** -20;
        expect(Math.abs(back[i] - values[i])).toBeLessThanOrEqual(bound);
      }
    }),
  );
});
