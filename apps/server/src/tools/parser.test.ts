import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { type Said, ToolCallParser } from "./parser.ts";

function read(pieces: readonly string[], isInside = false): Said[] {
  const parser = new ToolCallParser(isInside);
  const said = [...pieces.flatMap((piece) => parser.push(piece)), ...parser.end()];
  // How text was cut is no matter.
  const joined: Said[] = [];
  for (const what of said) {
    const last = joined.at(-1);
    if (last && "text" in last && "text" in what) joined[joined.length - 1] = { text: last.text + what.text };
    else joined.push(what);
  }
  return joined;
}

const CALL = '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>';
const called = { call: { name: "f", arguments: '{"x":1}' } };

describe("calls in an answer", () => {
  test.each([
    ["only text", "hello <b> there", [{ text: "hello <b> there" }]],
    ["only a call", CALL, [called]],
    [
      "text, calls, text",
      `Let me see.\n${CALL}\n${CALL}\nDone.`,
      [{ text: "Let me see." }, called, called, { text: "Done." }],
    ],
    ["a call that is not closed", '<tool_call>\n{"name": "f", "arguments": {"x": 1}}', [called]],
    ["what is no call stays text", "<tool_call>nonsense</tool_call>", [{ text: "<tool_call>nonsense</tool_call>" }]],
    ["half a mark at the end", "a <tool_", [{ text: "a <tool_" }]],
    ["arguments as text", '<tool_call>{"name": "f", "arguments": "{\\"x\\":1}"}</tool_call>', [called]],
    ["no arguments", '<tool_call>{"name": "f"}</tool_call>', [{ call: { name: "f", arguments: "{}" } }]],
    ["no name", '<tool_call>{"x": 1}</tool_call>', [{ text: '<tool_call>{"x": 1}</tool_call>' }]],
    ["white space at the end", "yes \n", [{ text: "yes \n" }]],
  ] as [string, string, Said[]][])("%s", (_, text, want) => {
    expect(read([text])).toEqual(want);
    expect(read([...text])).toEqual(want);
  });

  test("where the prompt has opened the call", () => {
    expect(read(['{"name": "f", ', '"arguments": {"x": 1}}'], true)).toEqual([called]);
  });

  test("text before a possible mark is given at once", () => {
    const parser = new ToolCallParser();
    expect(parser.push("Hello, wor")).toEqual([{ text: "Hello, wor" }]);
    expect(parser.push("ld <to")).toEqual([{ text: "ld" }]);
    expect(parser.push("p>")).toEqual([{ text: " <top>" }]);
  });

  test("however it is cut, it is read alike", () => {
    const part = fc.constantFrom("a", " ", "\n", "<", "<tool_call>", "</tool_call>", '{"name":"f"}', "{", CALL);
    fc.assert(
      fc.property(fc.array(part, { maxLength: 8 }), fc.array(fc.nat(200), { maxLength: 6 }), (parts, cuts) => {
        const text = parts.join("");
        const at = [0, ...cuts.map((cut) => cut % (text.length + 1)), text.length].sort((a, b) => a - b);
        const pieces = at.slice(1).map((end, i) => text.slice(at[i], end));
        expect(read(pieces)).toEqual(read([text]));
      }),
      { numRuns: 300 },
    );
  });
});
