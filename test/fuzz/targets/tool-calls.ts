import { type Said, ToolCallParser } from "../../../apps/server/src/tools/parser.ts";
import { check, type FuzzTarget, textOf } from "../target.ts";

/** Texts outside of calls put together: how they were cut is no matter. */
function read(pieces: readonly string[]): string {
  const parser = new ToolCallParser();
  let shown = "";
  const add = (said: readonly Said[]): void => {
    for (const what of said) shown += "text" in what ? what.text : `\0${JSON.stringify(what.call)}\0`;
  };
  for (const piece of pieces) add(parser.push(piece));
  add(parser.end());
  return shown;
}

/** Calls of tools out of what a model writes: alike, however its answer is cut. */
export const target: FuzzTarget = {
  words: ["<tool_call>", "</tool_call>", '{"name":', '"arguments":', "\n"],
  maxLength: 512,
  seeds: () => [
    'Let me see.\n<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>\nDone.',
    '<tool_call>{"name":"f","arguments":"{}"}</tool_call> <tool_call>{"x":1}',
    "a <tool_",
  ],
  fuzz(data) {
    const text = textOf(data);
    const whole = read([text]);
    check(read([...text]) === whole, () => `${JSON.stringify(text)} is read otherwise a character at a time`);
    check(
      text.includes("<tool_call>") || whole === text,
      () => `${JSON.stringify(text)} came as ${JSON.stringify(whole)}`,
    );
  },
};
