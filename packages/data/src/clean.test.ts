import { expect, test } from "bun:test";
import fc from "fast-check";
import { cleanText } from "./clean.ts";

const PYTHON_WHITE_SPACE =
  "[\\t-\\r\\u001c-\\u0020\\u0085\\u00a0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]";

/** Text in which white space and tags are likely. */
const markup = fc
  .array(fc.constantFrom(..."ab云<>< >\t\n\r\x1c\x1f\x85\u00a0\u3000\u2028\ufeff\u200b"), { maxLength: 30 })
  .map((characters) => characters.join(""));

test.each([
  ["white space collapses and the ends are trimmed", " \n a \t\r\n b\u3000 ", "a b"],
  ["tags go", "<p>云<br/>盘</p>", "云盘"],
  ["a tag may span lines", "a<img\nsrc='x'>b", "ab"],
  ["the shortest match goes", "<<a>b>", "b>"],
  ["an empty tag goes", "a<>b", "ab"],
  ["an open tag stays", "1 < 2", "1 < 2"],
  ["a closing sign alone stays", "2 > 1", "2 > 1"],
  ["text between two comparisons goes, as the rule says", "1 < 2 and 3 > 2", "1  2"],
  ["spaces around a tag stay", "a <br> b", "a  b"],
  ["tags alone leave nothing", "<p></p>", ""],
  ["Python's other white space counts", "a\x1c\x1d\x1e\x1f\x85b", "a b"],
  ["a byte order mark does not", "\ufeffa", "\ufeffa"],
])("%s", (_, text, cleaned) => {
  expect(cleanText(text)).toBe(cleaned);
});

test.each([[undefined], [null], [Number.NaN], [42], [true], [{}], [["a"]]])(
  "%p is no text and becomes empty",
  (value) => {
    expect(cleanText(value)).toBe("");
  },
);

test("the rule is Python's two substitutions", () => {
  const white = new RegExp(`${PYTHON_WHITE_SPACE}+`, "g");
  fc.assert(
    fc.property(fc.oneof(markup, fc.string({ unit: "binary" })), (text) => {
      const collapsed = text.replace(white, " ").replace(/^ +| +$/g, "");
      expect(cleanText(text)).toBe(collapsed.replace(/<.*?>/gs, ""));
    }),
  );
});

test("text without a tag is clean after one pass", () => {
  fc.assert(
    fc.property(markup, (text) => {
      const cleaned = cleanText(text.replaceAll("<", ""));
      expect(cleanText(cleaned)).toBe(cleaned);
    }),
  );
});

test("with tags a second pass may find more, a number of them nothing", () => {
  expect(cleanText(cleanText("a <br> b"))).toBe("a b");
  fc.assert(
    fc.property(markup, (text) => {
      let cleaned = cleanText(text);
      for (let i = 0; i < text.length; i++) cleaned = cleanText(cleaned);
      expect(cleanText(cleaned)).toBe(cleaned);
    }),
  );
});

test("a long run of opening signs takes linear work", () => {
  // The regular expression would look through 5e11 characters here.
  const text = "<".repeat(1_000_000);
  expect(cleanText(text)).toBe(text);
});
