import { afterAll, beforeAll, expect, test } from "bun:test";
import { readdir, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { Generator } from "@tslm/tensor";
import { parseGenerationConfig } from "./config.ts";
import { LoadedQwen } from "./loaded.ts";
import { QwenModel } from "./model/model.ts";
import { saveModel } from "./model/save.ts";
import { livingMemory, settledMemory, tinyConfig } from "./model/testing.ts";
import { Qwen } from "./qwen.ts";
import { tinyTokenizerConfig, tinyTokenizerJson, writeFolder } from "./tokenizer/testdata/tiny.ts";

let dir: string;
beforeAll(async () => {
  dir = await writeFolder({ "tokenizer.json": tinyTokenizerJson(), "tokenizer_config.json": tinyTokenizerConfig });
  const config = tinyConfig({ vocab_size: 300, eos_token_id: 266 });
  const model = QwenModel.init(config, new Generator(4), { std: 0.3 });
  await saveModel(dir, model, parseGenerationConfig({ do_sample: true, repetition_penalty: 1.5 }, config));
  model.dispose();
});
afterAll(() => rm(dir, { recursive: true }));

test("loads a folder, answers, chats and scores; dispose gives all back", async () => {
  const before = await settledMemory();
  const qwen = await Qwen.load(dir);
  expect(qwen.generationConfig).toMatchObject({ doSample: true, repetitionPenalty: 1.5, eosTokenIds: [266] });
  expect(qwen.model.training).toBe(false);

  const ids = qwen.tokenizer.encode("hello 中文");
  const answer = await qwen.complete(ids, { maxNewTokens: 8 });
  expect(answer.tokens.length).toBe(8);
  // Greedy and without penalty, whatever generation_config.json says.
  const scored = await qwen.score([...ids, ...answer.tokens.slice(0, 1)]);
  expect(scored.top[0][0]).toBe(answer.tokens[1]);
  expect(answer.text).toBe(qwen.tokenizer.decode(answer.tokens, { skipSpecialTokens: true }));

  let chatted = "";
  for await (const { text } of qwen.chat([{ role: "user", content: "中" }], { maxNewTokens: 5 })) chatted += text;
  const prompt = qwen.tokenizer.encode("<|im_start|>user\n中<|im_end|>\n<|im_start|>assistant\n");
  expect(chatted).toBe((await qwen.complete(prompt, { maxNewTokens: 5 })).text);

  const ended = await qwen.complete(ids, { maxNewTokens: 8, endTokens: [answer.tokens[0]] });
  expect(ended).toEqual({ text: "", tokens: [], finishReason: "stop", endToken: answer.tokens[0] });

  qwen.dispose();
  expect(livingMemory()).toEqual(before);
});

test("from bytes: the same model as from the folder; what is wrong is named", async () => {
  const read = async (name: string) => [name, new Uint8Array(await readFile(join(dir, name)))] as const;
  const files = Object.fromEntries(await Promise.all((await readdir(dir)).map(read)));
  const before = await settledMemory();
  const [fromFolder, fromBytes] = [await Qwen.load(dir), await LoadedQwen.parse(files)];
  expect(fromBytes.generationConfig).toEqual(fromFolder.generationConfig);
  const ids = fromFolder.tokenizer.encode("hello 中文");
  expect(fromBytes.tokenizer.encode("hello 中文")).toEqual(ids);
  expect(await fromBytes.score(ids)).toEqual(await fromFolder.score(ids));
  fromFolder.dispose();
  fromBytes.dispose();
  expect(livingMemory()).toEqual(before);

  const { "tokenizer.json": _, ...incomplete } = files;
  await expect(LoadedQwen.parse(incomplete)).rejects.toThrow("tokenizer.json: is missing");
  const broken = { ...files, "config.json": new TextEncoder().encode("{") };
  await expect(LoadedQwen.parse(broken)).rejects.toThrow("config.json: is not valid JSON");
});

test("a folder without a model is named", async () => {
  await expect(Qwen.load("/nowhere")).rejects.toThrow("config.json: does not exist");
});
