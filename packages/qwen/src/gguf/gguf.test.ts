import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtemp, readdir, rm, utimes } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Generator, noGrad, type Tensor, tensor } from "@tslm/tensor";
import { parseGenerationConfig } from "../config.ts";
import { resolveModel } from "../hub/resolve.ts";
import { QwenModel } from "../model/model.ts";
import { saveModel } from "../model/save.ts";
import { livingMemory, settledMemory, tinyConfig } from "../model/testing.ts";
import { Qwen } from "../qwen.ts";
import { tinyTokenizerConfig, tinyTokenizerJson, writeFolder } from "../tokenizer/testdata/tiny.ts";
import { ggufName } from "./names.ts";
import { writeTinyGguf } from "./testdata.ts";

/** Rows of whole blocks: hidden 64, intermediate 96. */
const SHAPE = { hidden_size: 64, intermediate_size: 96, head_dim: 16, vocab_size: 268, eos_token_id: 266 };
const prompt = "hello 中文";

let root: string;
let dir: string;
let model: QwenModel;
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "tslm-gguf-"));
  dir = await writeFolder({ "tokenizer.json": tinyTokenizerJson(), "tokenizer_config.json": tinyTokenizerConfig });
  const config = tinyConfig(SHAPE);
  model = QwenModel.init(config, new Generator(4), { std: 0.3 });
  await saveModel(dir, model, parseGenerationConfig({}, config));
});
afterAll(async () => {
  model.dispose();
  await rm(root, { recursive: true });
  await rm(dir, { recursive: true });
});

async function scores(path: string, options: Parameters<typeof Qwen.load>[1] = {}) {
  using qwen = await Qwen.load(path, options);
  const ids = qwen.tokenizer.encode(prompt);
  return { ids, logits: (await qwen.score(ids)).logits, names: [...qwen.model.namedParameters()] };
}

const distance = (a: Float32Array, b: Float32Array): number => Math.max(...a.map((x, i) => Math.abs(x - b[i])));

describe("a GGUF file", () => {
  test("gives the model, tokenizer and template that a folder gives", async () => {
    const path = join(root, "bf16.gguf");
    await writeTinyGguf(path, model, (tensors) => {
      for (const [name, t] of tensors)
        tensors.set(
          name,
          noGrad(() => t.to("bf16")),
        );
    });
    const before = await settledMemory();
    using fromFile = await Qwen.load(path);
    using fromFolder = await Qwen.load(dir);
    const { architectures: _a, dtype: _d, padTokenId: _p, ...config } = fromFile.config;
    expect({ ...config, ...fromFolder.config }).toEqual({ ...fromFolder.config, ...config, eosTokenIds: [266] });
    expect(fromFile.generationConfig.eosTokenIds).toEqual([266, 264]);
    const ids = fromFolder.tokenizer.encode(prompt);
    expect(fromFile.tokenizer.encode(prompt)).toEqual(ids);
    expect(fromFile.tokenizer.eosTokenId).toBe(266);
    const talk = [{ role: "user", content: "中" }];
    expect(fromFile.tokenizer.renderChat(talk)).toBe(fromFolder.tokenizer.renderChat(talk));
    expect((await fromFile.score(ids)).logits).toEqual((await fromFolder.score(ids)).logits);
    fromFile.dispose();
    fromFolder.dispose();
    expect(livingMemory()).toEqual(before);
  });

  test("with quantised blocks gives what their decoded numbers give", async () => {
    const [blocks, plain] = ["blocks.gguf", "plain.gguf"].map((name) => join(root, name));
    const quantize = (t: Tensor): Tensor => (t.rank === 2 ? noGrad(() => t.to("q8_0")) : t);
    await writeTinyGguf(blocks, model, (tensors) => {
      for (const [name, t] of tensors) tensors.set(name, quantize(t));
    });
    await writeTinyGguf(plain, model, (tensors) => {
      for (const [name, t] of tensors) tensors.set(name, quantize(t).to("f32"));
    });
    const [a, b] = [await scores(blocks), await scores(plain)];
    expect(distance(a.logits, b.logits)).toBeLessThan(1e-4);
    expect(distance(a.logits, (await scores(dir)).logits)).toBeLessThan(0.5);
  });

  test("is found by its path", async () => {
    const path = join(root, "found.gguf");
    await writeTinyGguf(path, model);
    expect(await resolveModel(path, { download: false })).toEqual({ dir: path, source: "gguf", downloaded: false });
    expect(resolveModel(join(root, "no.gguf"))).rejects.toThrow(
      `there is no file ${JSON.stringify(join(root, "no.gguf"))}`,
    );
  });

  const wrong: [string, Parameters<typeof writeTinyGguf>[2], string][] = [
    [
      "another architecture",
      (_, m) => m.set("general.architecture", "llama"),
      'general.architecture: must be "qwen2", but is "llama"',
    ],
    ["a missing size", (_, m) => m.delete("qwen2.embedding_length"), "hidden_size: must be a whole number"],
    ["a size that is text", (_, m) => m.set("qwen2.block_count", "two"), "num_hidden_layers: must be a whole number"],
    [
      "scaled positions",
      (_, m) => m.set("qwen2.rope.scaling.type", "yarn"),
      'rope_scaling: type "yarn" is not supported',
    ],
    ["another tokenizer", (_, m) => m.set("tokenizer.ggml.pre", "llama-bpe"), 'tokenizer.ggml.pre: must be "qwen2"'],
    ["no tokens", (_, m) => m.delete("tokenizer.ggml.tokens"), "tokenizer.ggml.tokens: must be a list of strings"],
    ["types of other tokens", (_, m) => m.set("tokenizer.ggml.token_type", [1]), "has 1 entries for"],
    ["a missing tensor", (t) => t.delete("blk.1.attn_q.bias"), "missing blk.1.attn_q.bias"],
    ["a tensor too many", (t) => t.set("blk.7.attn_q.bias", tensor([1])), "unexpected blk.7.attn_q.bias"],
    [
      "a tensor of another shape",
      (t) => t.set("output_norm.weight", tensor([1])),
      "output_norm.weight is [1], not [64]",
    ],
  ];
  test.each(wrong)("with %s is refused", async (name, change, problem) => {
    const path = join(root, `${name.replaceAll(" ", "-")}.gguf`);
    await writeTinyGguf(path, model, change);
    const before = await settledMemory();
    await expect(Qwen.load(path)).rejects.toThrow(problem);
    expect(livingMemory()).toEqual(before);
  });

  test("is not quantised again", async () => {
    const path = join(root, "again.gguf");
    await writeTinyGguf(path, model);
    await expect(Qwen.load(path, { quantize: "q8" })).rejects.toThrow("holds weights that are quantised already");
  });
});

test("names of ggml and of transformers", () => {
  expect(ggufName("model.layers.12.self_attn.o_proj.weight")).toBe("blk.12.attn_output.weight");
  expect(ggufName("model.embed_tokens.weight")).toBe("token_embd.weight");
  expect(() => ggufName("model.layers.1.other.weight")).toThrow("is not a parameter of a Qwen2 model");
});

describe("quantised loading", () => {
  test("rounds once, keeps what it rounded, and rounds again when the weights change", async () => {
    const quantizedCache = join(root, "cache");
    const load = (quantize: "q8" | "q4") => scores(dir, { quantize, quantizedCache });
    const exact = (await scores(dir)).logits;
    const first = await load("q8");
    expect(distance(first.logits, exact)).toBeLessThan(0.5);
    const files = await readdir(quantizedCache);
    expect(files).toHaveLength(1);
    expect(files[0]).toMatch(/-q8-[0-9a-f]{16}\.gguf$/);
    expect((await load("q8")).logits).toEqual(first.logits);

    const four = await load("q4");
    const types = new Map(four.names.map(([name, t]) => [name, t.dtype]));
    expect(types.get("model.layers.0.mlp.up_proj.weight")).toBe("q4_1");
    expect(types.get("model.layers.1.self_attn.q_proj.weight")).toBe("q4_1");
    expect(types.get("model.layers.1.self_attn.k_proj.weight")).toBe("q8_0");
    expect(types.get("model.embed_tokens.weight")).toBe("q8_0");
    expect(types.get("model.norm.weight")).toBe("f32");
    expect(await readdir(quantizedCache)).toHaveLength(2);

    await utimes(join(dir, "model.safetensors"), 1e9, 1e9);
    expect((await load("q8")).logits).toEqual(first.logits);
    const after = await readdir(quantizedCache);
    expect(after).toHaveLength(2);
    expect(after).not.toContain(files[0]);
  });

  test("works where nothing can be kept, and with rows that are no whole blocks", async () => {
    const file = join(dir, "config.json");
    const kept = await scores(dir, { quantize: "q8", quantizedCache: join(root, "other") });
    const lost = await scores(dir, { quantize: "q8", quantizedCache: file });
    expect(lost.logits).toEqual(kept.logits);

    const odd = await writeFolder({
      "tokenizer.json": tinyTokenizerJson(),
      "tokenizer_config.json": tinyTokenizerConfig,
    });
    const config = tinyConfig({ ...SHAPE, intermediate_size: 40 });
    const small = QwenModel.init(config, new Generator(4), { std: 0.3 });
    await saveModel(odd, small, parseGenerationConfig({}, config));
    small.dispose();
    const { names } = await scores(odd, { quantize: "q4", quantizedCache: join(root, "odd") });
    const types = new Map(names.map(([name, t]) => [name, t.dtype]));
    expect(types.get("model.layers.0.mlp.down_proj.weight")).toBe("bf16");
    expect(types.get("model.layers.0.mlp.up_proj.weight")).toBe("q4_1");
    await rm(odd, { recursive: true });
  });

  test("gives all memory back, also when it is stopped", async () => {
    const before = await settledMemory();
    const quantizedCache = join(root, "stopped");
    await expect(Qwen.load(dir, { quantize: "q4", quantizedCache, signal: AbortSignal.abort() })).rejects.toThrow();
    const stop = new AbortController();
    const onProgress = (done: number): void => {
      if (done === 5) stop.abort();
    };
    await expect(Qwen.load(dir, { quantize: "q4", quantizedCache, signal: stop.signal, onProgress })).rejects.toThrow();
    expect(livingMemory()).toEqual(before);
  });
});
