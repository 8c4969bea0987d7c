import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { rm } from "node:fs/promises";
import fc from "fast-check";
import { loadTokenizer } from "./load.ts";
import { tinyTokenizerConfig, tinyTokenizerJson, writeFolder } from "./testdata/tiny.ts";
import { TextStream } from "./text-stream.ts";
import type { Tokenizer } from "./tokenizer.ts";

let tokenizer: Tokenizer;
let dir: string;
beforeAll(async () => {
  dir = await writeFolder({ "tokenizer.json": tinyTokenizerJson(), "tokenizer_config.json": tinyTokenizerConfig });
  tokenizer = await loadTokenizer(dir);
});
afterAll(() => rm(dir, { recursive: true }));

/** A token per byte, so that every character is cut wherever it can be. */
const bytes = {
  tokenBytes: (id: number) => Uint8Array.of(id),
  isSpecial: () => false,
};
const utf8 = (text: string) => Array.from(new TextEncoder().encode(text));

function run(stream: TextStream, ids: number[]): string[] {
  return [...ids.map((id) => stream.push(id)), stream.end()];
}

/** What a stop string leaves of a text: the one completed first wins, of those the longest. */
function cut(text: string, stop: string[]): string {
  let best = { begin: text.length, end: Number.POSITIVE_INFINITY };
  for (const s of stop) {
    const begin = text.indexOf(s);
    if (begin < 0) continue;
    const end = begin + s.length;
    if (end < best.end || (end === best.end && begin < best.begin)) best = { begin, end };
  }
  return text.slice(0, best.begin);
}

describe("whole characters", () => {
  test("a character comes with its last byte", () => {
    const stream = new TextStream(bytes);
    expect(run(stream, utf8("中é😀a"))).toEqual(["", "", "中", "", "é", "", "", "", "😀", "a", ""]);
  });

  test("tokens that end inside a character, and those that join two", () => {
    const stream = tokenizer.stream();
    const id = (token: string) => tokenizer.tokenToId(token)!;
    const [a, b, c, d, e, f] = utf8("中文").map((byte) => tokenizer.idToToken(byte)!) as [string, ...string[]];
    expect(run(stream, [id(a! + b), id(c! + d), utf8("文")[1]!, utf8("文")[2]!])).toEqual(["", "中", "", "文", ""]);
    expect([e, f].every((token) => token !== undefined)).toBe(true);
  });

  test("an unfinished character is U+FFFD only at the end; U+FFFD in the text is text", () => {
    expect(run(new TextStream(bytes), [0xe4, 0xb8])).toEqual(["", "", "\ufffd"]);
    expect(run(new TextStream(bytes), utf8("\ufffda"))).toEqual(["", "", "\ufffd", "a", ""]);
  });

  test("a byte order mark stays", () => {
    expect(run(new TextStream(bytes), utf8("\ufeffa")).join("")).toBe("\ufeffa");
  });

  test("the pieces are the decoded ids, for any ids", () => {
    const ids = fc.array(fc.nat({ max: 270 }), { maxLength: 40 });
    fc.assert(
      fc.property(ids, fc.boolean(), (ids, skipSpecialTokens) => {
        const pieces = run(tokenizer.stream({ skipSpecialTokens }), ids);
        expect(pieces.join("")).toBe(tokenizer.decode(ids, { skipSpecialTokens }));
      }),
      { numRuns: 1000 },
    );
  });

  test("the pieces are the text, each of whole characters, for any text", () => {
    fc.assert(
      fc.property(fc.string({ unit: "binary", maxLength: 40 }), (text) => {
        const pieces = run(new TextStream(bytes), utf8(text));
        expect(pieces.join("")).toBe(text);
        for (const piece of pieces) {
          expect(piece.isWellFormed()).toBe(true);
          if (!text.includes("\ufffd")) expect(piece).not.toContain("\ufffd");
        }
      }),
      { numRuns: 200 },
    );
  });
});

describe("stop strings", () => {
  const stop = (text: string, ...stop: string[]) => {
    const stream = new TextStream(bytes, { stop });
    return { pieces: run(stream, utf8(text)), stopped: stream.stopped };
  };

  test("what may begin one is held back until it is clear", () => {
    expect(stop("a\nb\n\nc", "\n\n")).toEqual({ pieces: ["a", "", "\nb", "", "", "", ""], stopped: "\n\n" });
    expect(stop("a\n", "\n\n")).toEqual({ pieces: ["a", "", "\n"], stopped: undefined });
  });

  test("the first completed counts, of those the longest", () => {
    expect(stop("xabc", "abc", "b")).toMatchObject({ pieces: ["x", "", "a", "", ""], stopped: "b" });
    expect(stop("xabc", "bc", "abc").stopped).toBe("abc");
    expect(stop("xabc", "bc", "abc").pieces.join("")).toBe("x");
  });

  test("a stop string may begin inside a false start of itself", () => {
    expect(stop("aaab", "aab").pieces.join("")).toBe("a");
  });

  test("in Chinese; nothing comes after it", () => {
    const { pieces, stopped } = stop("你好。再见", "。");
    expect(pieces.join("")).toBe("你好");
    expect(stopped).toBe("。");
  });

  test("the result does not depend on how the text was cut", () => {
    const text = fc.string({ unit: fc.constantFrom("a", "b", "中", "\n"), maxLength: 30 });
    const stops = fc.array(fc.string({ unit: fc.constantFrom("a", "b", "中", "\n"), minLength: 1, maxLength: 4 }), {
      maxLength: 3,
    });
    fc.assert(
      fc.property(text, stops, (text, stop) => {
        const streams = [new TextStream(bytes, { stop }), tokenizer.stream({ stop })];
        const [byByte, byToken] = [
          run(streams[0]!, utf8(text)).join(""),
          run(streams[1]!, tokenizer.encode(text)).join(""),
        ];
        expect(byByte).toBe(cut(text, stop));
        expect(byToken).toBe(cut(text, stop));
        expect(streams[0]!.stopped !== undefined).toBe(stop.some((s) => text.includes(s)));
      }),
      { numRuns: 1000 },
    );
  });

  test("a control token can be a stop string; left out of the text it cannot", () => {
    const ids = tokenizer.encode("hello<|im_end|>hello");
    expect(run(tokenizer.stream({ stop: ["<|im_end|>"] }), ids).join("")).toBe("hello");
    expect(run(tokenizer.stream({ stop: ["<|im_end|>"], skipSpecialTokens: true }), ids).join("")).toBe("hellohello");
  });

  test("an empty stop string is refused, and so is a token after the end", () => {
    expect(() => new TextStream(bytes, { stop: [""] })).toThrow("stop string");
    const stream = new TextStream(bytes);
    stream.end();
    expect(stream.end()).toBe("");
    expect(() => stream.push(65)).toThrow("has ended");
  });
});
