import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { LooseCalls } from "./loose.ts";
import { type Said, ToolCallParser } from "./parser.ts";

function read(pieces: readonly string[], isInside = false, loose?: LooseCalls): Said[] {
  const parser = new ToolCallParser(isInside, loose);
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

describe("calls without marks", () => {
  const parameters = {
    type: "object",
    properties: { city: { type: "string", pattern: "(a+)+$" }, days: { type: "integer" } },
    required: ["city"],
  };
  const loose = new LooseCalls([
    { type: "function", function: { name: "weather", parameters } },
    { type: "function", function: { name: "now" } },
    { type: "function", function: { name: "loop", parameters: { $ref: "#" } } },
  ]);
  const json = '{"name": "weather", "arguments": {"city": "Paris"}}';
  const weather = { call: { name: "weather", arguments: '{"city":"Paris"}' } };
  const calls: [string, string][] = [
    ["bare", json],
    ["in a fence of JSON", `\`\`\`json\n${json}\n\`\`\``],
    ["in a fence", `\`\`\`\n${json}\n\`\`\`\n`],
    ["over lines", `\n ${JSON.stringify(JSON.parse(json), null, 2)} \n`],
    ["arguments first", '{"arguments": {"city": "Paris"}, "name": "weather"}'],
    ["with marks", `<tool_call>\n${json}\n</tool_call>`],
  ];
  test.each(calls)("%s: a call", (_, text) => {
    expect(read([text], false, loose)).toEqual([weather]);
    expect(read([...text], false, loose)).toEqual([weather]);
  });

  test.each([
    ["another tool's name", '{"name": "John", "arguments": {"city": "Paris"}}'],
    ["arguments that do not fit", '{"name": "weather", "arguments": {"city": 5}}'],
    ["one that is missing", '{"name": "weather", "arguments": {"days": 2}}'],
    ["no arguments", '{"name": "weather"}'],
    ["more beside them", '{"name": "weather", "arguments": {"city": "Paris"}, "note": 1}'],
    ["arguments as a list", '{"name": "now", "arguments": []}'],
    ["words around it", `Use this:\n\`\`\`json\n${json}\n\`\`\``],
    ["words after it", `\`\`\`json\n${json}\n\`\`\`\nThat is how.`],
    ["a fence that stays open", `\`\`\`json\n${json}`],
    ["cut off", json.slice(0, -2)],
    ["another language", `\`\`\`python\n${json}\n\`\`\``],
    ["other JSON", '{"age": 5}'],
    ["a list", `[${json}]`],
    ["a schema that refers to others", '{"name": "loop", "arguments": {}}'],
  ])("%s: an answer", (_, text) => {
    expect(read([text], false, loose)).toEqual([{ text }]);
    expect(read([...text], false, loose)).toEqual([{ text }]);
  });

  test("what cannot become a call any more is told at once", () => {
    for (const text of ['{"age', "```py", "Well", '{"names"', "[1", "```json\n[", `\`\`\`json\n${json}\n\`\`\` x`]) {
      expect(new ToolCallParser(false, loose).push(text)).toEqual([{ text }]);
    }
    for (const text of ["``", "```js", '{"na', "{", '```json\n{ "arg', json]) {
      expect(new ToolCallParser(false, loose).push(text)).toEqual([]);
    }
  });
});
