import { expect, test } from "bun:test";
import fc from "fast-check";
import { fromBf16, fromF16, promote, toBf16 } from "./dtype.ts";

test("every bf16 survives the way through a number", () => {
  for (let bits = 0; bits < 65536; bits++) {
    const back = toBf16(fromBf16(bits));
    if (Number.isNaN(fromBf16(bits))) expect(Number.isNaN(fromBf16(back))).toBe(true);
    else if (back !== bits) throw new Error(`${bits} became ${back}`);
  }
});

test("toBf16 takes the nearer neighbour, the even one at a tie", () => {
  fc.assert(
    fc.property(fc.float({ noNaN: true, noDefaultInfinity: true }), (x) => {
      const bits = toBf16(x);
      const got = fromBf16(bits);
      if (!Number.isFinite(got)) return Math.abs(x) >= 3.3895313892515355e38;
      return [bits - 1, bits + 1].every((other) => {
        const neighbour = fromBf16(other & 0xffff);
        if (!Number.isFinite(neighbour) || Math.sign(neighbour) !== Math.sign(got)) return true;
        const [mine, theirs] = [Math.abs(x - got), Math.abs(x - neighbour)];
        return mine < theirs || (mine === theirs && bits % 2 === 0);
      });
    }),
    { numRuns: 2000, seed: 4 },
  );
});

test("half-way between two bf16 lies the even one", () => {
  const word = new Uint32Array(1);
  const float = new Float32Array(word.buffer);
  for (let bits = 0; bits < 0x7f80; bits++) {
    word[0] = (bits << 16) | 0x8000;
    if (toBf16(float[0]) !== bits + (bits % 2)) throw new Error(`${float[0]} became ${toBf16(float[0])}`);
    if (toBf16(-float[0]) !== 0x8000 + bits + (bits % 2)) throw new Error(`${-float[0]} became ${toBf16(-float[0])}`);
  }
});

test("every f16 is what a Float16Array reads", () => {
  const bits = new Uint16Array(65536).map((_, i) => i);
  const floats = new Float16Array(bits.buffer);
  for (let i = 0; i < 65536; i++) if (!Object.is(fromF16(bits[i]), floats[i])) throw new Error(`${i}: ${fromF16(i)}`);
});

test("arithmetic takes the wider type; bf16 computes in f32", () => {
  expect(promote("f32", "f64")).toBe("f64");
  expect(promote("bf16", "bf16")).toBe("f32");
  expect(promote("i32", "i32")).toBe("i32");
  expect(promote("i32", "bf16")).toBe("f32");
});
