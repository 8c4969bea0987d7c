import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Generator, openGguf, type StoredType } from "@tslm/tensor";
import { parseGenerationConfig } from "../config.ts";
import { QwenModel } from "../model/model.ts";
import { type FolderType, type ModelToWrite, saveModel, writeModelFolder } from "../model/save.ts";
import { distance, livingMemory, settledMemory, tinyConfig } from "../model/testing.ts";
import { Qwen } from "../qwen.ts";
import { loadTokenizer } from "../tokenizer/index.ts";
import { tinyTokenizerConfig, tinyTokenizerJson, writeFolder } from "../tokenizer/testdata/tiny.ts";
import { tinyMetadata } from "./testdata.ts";
import { ggufType, writeModelGguf } from "./write.ts";

/** Rows of whole blocks; more rows in the embedding than tokens. */
const config = tinyConfig({ hidden_size: 64, intermediate_size: 96, head_dim: 16, vocab_size: 272, eos_token_id: 266 });
const prompt = "hello 中文";

let root: string;
let dir: string;
let exact: Qwen;
let model: ModelToWrite;
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "tslm-write-"));
  dir = await writeFolder({ "tokenizer.json": tinyTokenizerJson(), "tokenizer_config.json": tinyTokenizerConfig });
  const made = QwenModel.init(config, new Generator(4), { std: 0.3 });
  await saveModel(dir, made, parseGenerationConfig({}, config));
  made.dispose();
  exact = await Qwen.load(dir);
  const parameters = exact.model.stateDict();
  const { files: tokenizer } = await loadTokenizer(dir);
  const generationConfig = parseGenerationConfig({ eos_token_id: [266, 264], do_sample: true }, config);
  model = { config, generationConfig, tokenizer, read: (name) => parameters.get(name)!.alias() };
});
afterAll(async () => {
  exact.dispose();
  await rm(root, { recursive: true });
  await rm(dir, { recursive: true });
});

/** Largest difference of the logits after the prompt from those of the model that was written. */
async function difference(path: string): Promise<number> {
  using qwen = await Qwen.load(path);
  const ids = exact.tokenizer.encode(prompt);
  expect(qwen.tokenizer.encode(prompt)).toEqual(ids);
  const talk = [{ role: "user", content: "中" }];
  expect(qwen.tokenizer.renderChat(talk)).toBe(exact.tokenizer.renderChat(talk));
  expect(qwen.generationConfig.eosTokenIds).toEqual([266, 264]);
  return distance((await qwen.score(ids)).logits, (await exact.score(ids)).logits);
}

describe("a model that is written", () => {
  const gguf: [StoredType, number][] = [
    ["bf16", 0],
    ["f32", 0],
    ["f16", 0.02],
    ["q8_0", 0.5],
    ["q5_1", 3],
    ["q4_0", 5],
  ];
  test.each(gguf)("as a GGUF file of %s gives the same logits, within %d", async (type, most) => {
    const before = await settledMemory();
    const path = join(root, `${type}.gguf`);
    await writeModelGguf(path, model, type, { name: "tiny", metadata: new Map([["tslm.note", "hello"]]) });
    expect(await difference(path)).toBeLessThanOrEqual(most);
    using file = await openGguf(path);
    expect(file.metadata.get("general.name")).toBe("tiny");
    expect(file.metadata.get("tslm.note")).toBe("hello");
    const fileTypes = { f32: 0, f16: 1, q4_0: 2, q8_0: 7, q5_1: 9, bf16: 32 } as Record<string, number>;
    expect(file.metadata.get("general.file_type")).toBe(fileTypes[type]);
    expect(file.info("blk.0.ffn_up.weight").type).toBe(type.toUpperCase());
    expect(file.info("blk.0.attn_norm.weight").type).toBe("F32");
    expect(livingMemory()).toEqual(before);
  });

  test.each(["bf16", "f32", "f16"] as FolderType[])("as a folder of %s gives the same logits", async (type) => {
    const folder = join(root, type);
    await Bun.$`mkdir ${folder}`;
    await writeModelFolder(folder, model, type);
    expect(await difference(folder)).toBeLessThanOrEqual(type === "f16" ? 0.02 : 0);
    const written = await Bun.file(join(folder, "config.json")).json();
    expect(written.torch_dtype).toBe({ bf16: "bfloat16", f32: "float32", f16: "float16" }[type as string]);
    const generation = await Bun.file(join(folder, "generation_config.json")).json();
    expect(generation).toMatchObject({ eos_token_id: [266, 264], do_sample: true });
  });

  test("has the metadata that llama.cpp's converter writes", async () => {
    const path = join(root, "metadata.gguf");
    await writeModelGguf(path, model, "bf16", { name: "tiny" });
    using file = await openGguf(path);
    const expected = tinyMetadata(config);
    for (const [key, value] of expected) {
      const found = file.metadata.get(key);
      const plain = typeof value === "object" && "float32" in value ? value.float32 : value;
      if (typeof plain === "number") expect(Math.fround(found as number)).toBe(Math.fround(plain));
      else if (!Array.isArray(plain)) expect(found).toEqual(plain as string);
      else if (key.endsWith("merges")) expect(found).toEqual(plain);
      else expect((found as unknown[]).slice(0, plain.length)).toEqual(plain as unknown[]);
    }
    // Rows of the embedding that no token has are unused.
    expect((file.metadata.get("tokenizer.ggml.tokens") as string[]).slice(268)).toEqual(
      [268, 269, 270, 271].map((id) => `[PAD${id}]`),
    );
    expect((file.metadata.get("tokenizer.ggml.token_type") as number[]).slice(-1)).toEqual([5]);
    expect(file.metadata.get("tokenizer.ggml.eos_token_id")).toBe(266);
  });

  test("with another tokenizer is refused", async () => {
    const { json } = model.tokenizer;
    const other = { ...model.tokenizer, json: { ...json, pre_tokenizer: { type: "ByteLevel" } } };
    await expect(
      writeModelGguf(join(root, "x.gguf"), { ...model, tokenizer: other }, "bf16", { name: "" }),
    ).rejects.toThrow("tokenizer.json: pre_tokenizer: splits text otherwise than Qwen2 does");
  });
});

test("what keeps more bits than the rest", () => {
  expect(ggufType("model.norm.weight", [64], "q4_0")).toBe("f32");
  expect(ggufType("model.embed_tokens.weight", [268, 64], "q4_0")).toBe("q8_0");
  expect(ggufType("model.layers.3.self_attn.v_proj.weight", [32, 64], "q5_1")).toBe("q8_0");
  expect(ggufType("model.layers.3.self_attn.q_proj.weight", [64, 64], "q4_0")).toBe("q4_0");
  expect(ggufType("model.layers.3.mlp.down_proj.weight", [64, 40], "q4_0")).toBe("f16");
  expect(ggufType("model.embed_tokens.weight", [268, 64], "f16")).toBe("f16");
});
