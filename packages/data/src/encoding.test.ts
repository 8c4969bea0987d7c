import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { decodeFile, detectEncoding } from "./encoding.ts";
import { dataErrorOf, encodeGbk, encodeUtf16, useFolder } from "./testing.ts";

const folder = useFolder();

async function read(path: string): Promise<string> {
  let text = "";
  for await (const piece of decodeFile(path, await detectEncoding(path))) text += piece;
  return text;
}

describe("detection", () => {
  const text = "飞跃云,扩容";
  const gb18030 = Uint8Array.of(183, 201, 212, 190, 212, 198, 44, 192, 169, 200, 221);

  test.each([
    ["plain UTF-8", Buffer.from(text), "utf-8"],
    ["UTF-8 with a byte order mark", Buffer.from(`\ufeff${text}`), "utf-8"],
    ["GB18030", gb18030, "gb18030"],
    ["GB18030 with a byte order mark", Uint8Array.of(0x84, 0x31, 0x95, 0x33, ...gb18030), "gb18030"],
    ["UTF-16, little endian", encodeUtf16(text, true), "utf-16le"],
    ["UTF-16, big endian", encodeUtf16(text, false), "utf-16be"],
  ] as const)("%s", async (name, bytes, encoding) => {
    const path = folder.file(name, bytes);
    expect((await detectEncoding(path)).encoding).toBe(encoding);
    expect(await read(path)).toBe(text);
  });

  test("four-byte characters of GB18030", async () => {
    expect(await read(folder.file("rare", Uint8Array.of(149, 52, 178, 53, 162, 227)))).toBe("𠮷€");
  });

  test("two characters whose GB18030 bytes look like UTF-8 to a lenient decoder", async () => {
    const path = folder.file("unicom", Uint8Array.of(193, 170, 205, 168));
    expect(await read(path)).toBe("联通");
  });

  test("only the first byte order mark is one", async () => {
    expect(await read(folder.file("twice", "\ufeff\ufeffa"))).toBe("\ufeffa");
  });

  test("characters cut by the reading of 64 KiB pieces are whole again", async () => {
    for (const shift of ["", "a", "aa", "aaa"]) {
      const long = shift + "飞𠮷".repeat(20_000);
      expect(await read(folder.file("long-utf8", long))).toBe(long);
      expect(await read(folder.file("long-utf16", encodeUtf16(long, true)))).toBe(long);
      const gbk = shift + "飞跃云".repeat(30_000);
      expect(await read(folder.file("long-gbk", encodeGbk(gbk)))).toBe(gbk);
    }
  });

  test("any text of Chinese characters comes back from GB18030 and from UTF-8", async () => {
    const unit = fc.constantFrom(..."飞跃云盘的费用是多少龘镕,。:“”A1\n");
    await fc.assert(
      fc.asyncProperty(fc.string({ unit, minLength: 1, maxLength: 60 }), async (text) => {
        const bytes = encodeGbk(text);
        // A few GB18030 texts are valid UTF-8 by chance; plain ASCII is both.
        fc.pre(!isUtf8(bytes));
        const path = folder.file("any", bytes);
        expect((await detectEncoding(path)).encoding).toBe("gb18030");
        expect(await read(path)).toBe(text);
        expect(await read(folder.file("any", text))).toBe(text);
      }),
    );
  });

  test("any well-formed text comes back from UTF-8 and UTF-16", async () => {
    await fc.assert(
      fc.asyncProperty(fc.string({ unit: "binary", minLength: 1 }), fc.boolean(), async (text, isLittleEndian) => {
        expect(await read(folder.file("any", `\ufeff${text}`))).toBe(text);
        expect(await read(folder.file("any", encodeUtf16(text, isLittleEndian)))).toBe(text);
      }),
    );
  });
});

describe("what cannot be decoded is refused with its place", () => {
  test("neither UTF-8 nor GB18030", async () => {
    const bytes = Buffer.concat([Buffer.from("a,b\r\nc,"), Uint8Array.of(0xc4, 0xe3, 0x0a), Uint8Array.of(0x41, 0xff)]);
    const error = await dataErrorOf(() => detectEncoding(folder.file("latin.csv", bytes)));
    expect(error.code).toBe("encoding");
    expect(error.sentence).toBe(
      "latin.csv: the file is neither UTF-8 (byte 0xc4 at offset 7, line 2, does not begin a character) nor GB18030 (byte 0xff at offset 11, line 3, does not begin a character); save it as UTF-8 and try again",
    );
  });

  test("a UTF-8 file with its mark and a bad byte", async () => {
    const path = folder.file("bad.csv", Uint8Array.of(0xef, 0xbb, 0xbf, 0x61, 0xff));
    const error = await dataErrorOf(() => read(path));
    expect(error.sentence).toBe(
      "bad.csv: the file is not valid UTF-8 (byte 0xff at offset 4, line 1, does not begin a character); save it as UTF-8 and try again",
    );
  });

  test("a UTF-16 file cut in the middle of a character", async () => {
    const path = folder.file("cut.csv", encodeUtf16("a\nb", true).subarray(0, -1));
    const error = await dataErrorOf(() => read(path));
    expect(error.sentence).toBe(
      "cut.csv: the file is not valid UTF-16 (little endian) (the character at byte offset 6, line 2, is cut off); save it as UTF-8 and try again",
    );
  });

  test("the place is exact wherever the pieces of the reading end", async () => {
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 0, max: 70_000 }), fc.constantFrom("云", "云\n"), async (count, filler) => {
        const good = Buffer.from(`\ufeff${filler.repeat(count)}`);
        const path = folder.file("place.csv", Buffer.concat([good, Uint8Array.of(0xe4, 0xba), Buffer.from("ok")]));
        const lines = filler === "云" ? 1 : 1 + count;
        const error = await dataErrorOf(() => read(path));
        expect(error.message).toContain(`byte 0xe4 at offset ${good.length}, line ${lines},`);
      }),
      { numRuns: 20 },
    );
  });
});

function isUtf8(bytes: Uint8Array): boolean {
  try {
    new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    return true;
  } catch {
    return false;
  }
}
