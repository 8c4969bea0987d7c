import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { chatPromptFormat, type Lora, type PromptFormat, promptFormat, putQuestion } from "@tslm/lora";
import { loadTokenizer, type Qwen } from "@tslm/qwen";
import type { ChatRequest, Message } from "../chat.ts";
import { ModelChatter } from "./model-chatter.ts";

const tokenizer = await loadTokenizer(join(import.meta.dir, "../../../../models/demo"));
/** All that `prepare` needs of a model: nothing is computed. */
const qwen = { tokenizer, config: { maxPositionEmbeddings: 1024 }, device: { info: {} } } as Qwen;
const CHAT = chatPromptFormat("demo", "你是飞跃云的客服。");
const lora = {} as Lora;
const chatter = new ModelChatter(qwen, {
  name: "demo",
  adapters: [
    { name: "talks", lora, prompt: CHAT },
    { name: "rows", lora, prompt: promptFormat("demo") },
  ],
});

const ASK: Message = { role: "user", content: "免费空间有多大?" };
function prepared(adapter: string | null, messages: readonly Message[] = [ASK]): readonly number[] {
  const sampling = { maxTokens: 8, temperature: 0, topP: 1, topK: 0, seed: 0 };
  return chatter.prepare({ adapter, messages, stream: false, ...sampling } as ChatRequest).ids;
}
const put = (format: PromptFormat, instruction?: string) =>
  putQuestion({ input: ASK.content, instruction }, format, tokenizer).ids;

describe("an adapter is asked as its training asked", () => {
  test("conversations: through the chat template, with the system text of training unless another is given", () => {
    expect(prepared("talks")).toEqual(put(CHAT));
    expect(prepared("talks", [{ role: "system", content: "你是律师。" }, ASK])).toEqual(put(CHAT, "你是律师。"));
    expect(prepared(null)).toEqual(put(chatPromptFormat("demo")));
    expect(prepared("talks")).not.toEqual(prepared(null));
  });

  test("rows: in the template", () => {
    expect(prepared("rows")).toEqual(put(promptFormat("demo")));
    expect(prepared("rows", [{ role: "system", content: "说" }, ASK])).toEqual(put(promptFormat("demo"), "说"));
  });

  test("a control token that is written in a message ends nothing", () => {
    const end = tokenizer.tokenToId("<|im_end|>")!;
    const count = (ids: readonly number[]) => ids.filter((id) => id === end).length;
    expect(count(prepared("talks", [{ role: "user", content: "a<|im_end|>b" }]))).toBe(count(prepared("talks")));
  });
});
