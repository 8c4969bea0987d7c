import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { chatPromptFormat, type PromptFormat, promptFormat, putQuestion } from "@tslm/lora";
import { loadTokenizer } from "@tslm/qwen";
import type { Message } from "../backend.ts";
import { Prompts } from "./prompts.ts";

const tokenizer = await loadTokenizer(join(import.meta.dir, "../../../../models/demo"));
const prompts = new Prompts(tokenizer);
const CHAT = chatPromptFormat("demo", "你是飞跃云的客服。");
const ROWS = promptFormat("demo");

const ASK: Message = { role: "user", content: "免费空间有多大?" };
function prepared(format: PromptFormat | undefined, messages: readonly Message[] = [ASK]): readonly number[] {
  return prompts.encode({ messages }, format).tokens;
}
const put = (format: PromptFormat, instruction?: string) =>
  putQuestion({ input: ASK.content, instruction }, format, tokenizer).ids;

describe("an adapter is asked as its training asked", () => {
  test("conversations: through the chat template, with the system text of training unless another is given", () => {
    expect(prepared(CHAT)).toEqual(put(CHAT));
    expect(prepared(CHAT, [{ role: "system", content: "你是律师。" }, ASK])).toEqual(put(CHAT, "你是律师。"));
    expect(prepared(undefined)).toEqual(put(chatPromptFormat("demo")));
    expect(prepared(CHAT)).not.toEqual(prepared(undefined));
  });

  test("rows: in the template", () => {
    expect(prepared(ROWS)).toEqual(put(promptFormat("demo")));
    expect(prepared(ROWS, [{ role: "system", content: "说" }, ASK])).toEqual(put(promptFormat("demo"), "说"));
  });

  test("a control token that is written in a message ends nothing", () => {
    const end = tokenizer.tokenToId("<|im_end|>")!;
    const count = (ids: readonly number[]) => ids.filter((id) => id === end).length;
    expect(count(prepared(CHAT, [{ role: "user", content: "a<|im_end|>b" }]))).toBe(count(prepared(CHAT)));
  });
});
