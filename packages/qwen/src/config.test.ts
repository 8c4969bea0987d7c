import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseGenerationConfig, parseModelConfig } from "./config.ts";
import { loadGenerationConfig, loadModelConfig } from "./config-files.ts";
import { ModelFileError } from "./errors.ts";

const qwen05 = {
  architectures: ["Qwen2ForCausalLM"],
  model_type: "qwen2",
  hidden_act: "silu",
  hidden_size: 896,
  intermediate_size: 4864,
  num_hidden_layers: 24,
  num_attention_heads: 14,
  num_key_value_heads: 2,
  max_position_embeddings: 32768,
  rope_theta: 1000000.0,
  rms_norm_eps: 1e-6,
  tie_word_embeddings: true,
  vocab_size: 151936,
  torch_dtype: "bfloat16",
  bos_token_id: 151643,
  eos_token_id: 151645,
  use_sliding_window: false,
  sliding_window: 32768,
  max_window_layers: 24,
};
// The other end of the family; values of the published config.json.
const qwen72 = {
  ...qwen05,
  hidden_size: 8192,
  intermediate_size: 29568,
  num_hidden_layers: 80,
  num_attention_heads: 64,
  num_key_value_heads: 8,
  tie_word_embeddings: false,
  vocab_size: 152064,
  max_window_layers: 70,
  sliding_window: 131072,
};

function problem(run: () => unknown): ModelFileError {
  try {
    run();
  } catch (error) {
    expect(error).toBeInstanceOf(ModelFileError);
    return error as ModelFileError;
  }
  throw new Error("expected a ModelFileError");
}

describe("config.json", () => {
  test("0.5B", () => {
    expect(parseModelConfig(qwen05)).toEqual({
      modelType: "qwen2",
      architectures: ["Qwen2ForCausalLM"],
      hiddenSize: 896,
      intermediateSize: 4864,
      numHiddenLayers: 24,
      numAttentionHeads: 14,
      numKeyValueHeads: 2,
      headDim: 64,
      vocabSize: 151936,
      maxPositionEmbeddings: 32768,
      rmsNormEps: 1e-6,
      ropeTheta: 1e6,
      tieWordEmbeddings: true,
      dtype: "bfloat16",
      bosTokenId: 151643,
      eosTokenIds: [151645],
      padTokenId: undefined,
    });
  });

  test("72B: untied, eight key/value heads", () => {
    const config = parseModelConfig(qwen72);
    expect(config.headDim).toBe(128);
    expect(config.tieWordEmbeddings).toBe(false);
    expect(config.numAttentionHeads / config.numKeyValueHeads).toBe(8);
  });

  test("transformers 5 spells the rope base and the dtype differently", () => {
    const { rope_theta: _, torch_dtype: __, ...rest } = qwen05;
    const config = parseModelConfig({
      ...rest,
      rope_parameters: { rope_theta: 5e5, rope_type: "default" },
      dtype: "float32",
      layer_types: Array(24).fill("full_attention"),
    });
    expect(config.ropeTheta).toBe(5e5);
    expect(config.dtype).toBe("float32");
  });

  test("what is left out gets the values of Qwen2Config", () => {
    const config = parseModelConfig({
      model_type: "qwen2",
      hidden_size: 64,
      intermediate_size: 128,
      num_hidden_layers: 2,
      num_attention_heads: 4,
      vocab_size: 512,
    });
    expect(config).toMatchObject({
      numKeyValueHeads: 4,
      headDim: 16,
      ropeTheta: 10000,
      rmsNormEps: 1e-6,
      tieWordEmbeddings: false,
      eosTokenIds: [],
      dtype: undefined,
    });
  });

  test("an explicit head_dim need not be hidden_size / heads; null fields count as absent", () => {
    const config = parseModelConfig({ ...qwen05, head_dim: 128, rope_scaling: null, sliding_window: null });
    expect(config.headDim).toBe(128);
  });

  test("a sliding window that cuts nothing is accepted", () => {
    expect(parseModelConfig({ ...qwen05, use_sliding_window: true }).numHiddenLayers).toBe(24);
    expect(parseModelConfig({ ...qwen05, use_sliding_window: true, max_window_layers: 0 }).headDim).toBe(64);
  });

  test.each<[string, Record<string, unknown>, string, string]>([
    ["another family", { model_type: "llama" }, "model_type", '"llama"'],
    ["no family", { model_type: undefined }, "model_type", "nothing"],
    ["text for a number", { hidden_size: "896" }, "hidden_size", '"896"'],
    ["a missing number", { num_hidden_layers: undefined }, "num_hidden_layers", "nothing"],
    ["zero layers", { num_hidden_layers: 0 }, "num_hidden_layers", "from 1 to 1024"],
    ["a fraction", { intermediate_size: 48.5 }, "intermediate_size", "48.5"],
    ["a monstrous vocabulary", { vocab_size: 1e12 }, "vocab_size", "1000000000000"],
    ["another activation", { hidden_act: "gelu" }, "hidden_act", '"gelu"'],
    ["heads that do not divide the width", { num_attention_heads: 13, num_key_value_heads: 1 }, "hidden_size", "13"],
    ["groups that do not divide the heads", { num_key_value_heads: 4 }, "num_key_value_heads", "14"],
    ["an odd head", { head_dim: 63 }, "head_dim", "even"],
    ["yarn", { rope_scaling: { type: "yarn", factor: 4 } }, "rope_scaling", '"yarn"'],
    ["yarn, new spelling", { rope_parameters: { rope_type: "yarn", rope_theta: 1 } }, "rope_parameters", '"yarn"'],
    ["a negative base", { rope_theta: -1 }, "rope_theta", "above 0"],
    [
      "partial rotation",
      { rope_parameters: { partial_rotary_factor: 0.5 } },
      "rope_parameters.partial_rotary_factor",
      "0.5",
    ],
    [
      "sliding windows",
      { use_sliding_window: true, max_window_layers: 12, sliding_window: 4096 },
      "use_sliding_window",
      "not supported",
    ],
    [
      "sliding layers",
      { layer_types: ["sliding_attention", ...Array(23).fill("full_attention")], sliding_window: 9 },
      "layer_types",
      "not supported",
    ],
    ["too few layer types", { layer_types: ["full_attention"] }, "layer_types", "24"],
    ["an unknown dtype", { torch_dtype: "int4" }, "torch_dtype", '"int4"'],
    ["an end token beyond the vocabulary", { eos_token_id: [151645, 151936] }, "eos_token_id", "151936"],
    ["an end token that is text", { eos_token_id: "<|im_end|>" }, "eos_token_id", "token id"],
  ])("%s: the error names file, field and value", (_, change, field, says) => {
    const error = problem(() => parseModelConfig({ ...qwen05, ...change }, "dir/config.json"));
    expect(error.field).toBe(field);
    expect(error.message).toStartWith(`dir/config.json: ${field}: `);
    expect(error.message).toContain(says);
  });

  test("only an object is a config", () => {
    for (const value of [null, 3, "text", []]) {
      expect(problem(() => parseModelConfig(value)).message).toContain("must be a JSON object");
    }
  });
});

describe("generation_config.json", () => {
  const config = parseModelConfig(qwen05);

  test("as Qwen2.5-Instruct ships it", () => {
    const generation = parseGenerationConfig(
      {
        bos_token_id: 151643,
        pad_token_id: 151643,
        do_sample: true,
        eos_token_id: [151645, 151643],
        repetition_penalty: 1.1,
        temperature: 0.7,
        top_p: 0.8,
        top_k: 20,
      },
      config,
    );
    expect(generation).toEqual({
      eosTokenIds: [151645, 151643],
      bosTokenId: 151643,
      padTokenId: 151643,
      doSample: true,
      temperature: 0.7,
      topK: 20,
      topP: 0.8,
      minP: 0,
      repetitionPenalty: 1.1,
    });
  });

  test("without the file: greedy, end tokens of config.json", () => {
    expect(parseGenerationConfig(undefined, config)).toEqual({
      eosTokenIds: [151645],
      bosTokenId: 151643,
      padTokenId: undefined,
      doSample: false,
      temperature: 1,
      topK: 50,
      topP: 1,
      minP: 0,
      repetitionPenalty: 1,
    });
  });

  test.each<[string, unknown]>([
    ["temperature", -1],
    ["top_k", 1.5],
    ["top_p", 0],
    ["top_p", "0.8"],
    ["min_p", 2],
    ["repetition_penalty", 0],
    ["eos_token_id", []],
    ["eos_token_id", 200000],
    ["do_sample", "yes"],
  ])("%s: %p is refused by name", (field, value) => {
    const error = problem(() => parseGenerationConfig({ [field]: value }, config));
    expect(error.field).toBe(field);
    expect(error.file).toBe("generation_config.json");
  });
});

describe("files", () => {
  let dir: string;
  beforeAll(async () => {
    dir = await mkdtemp(join(tmpdir(), "tslm-config-"));
  });
  afterAll(() => rm(dir, { recursive: true }));

  test("missing, broken, oversized, then right", async () => {
    const file = join(dir, "config.json");
    await expect(loadModelConfig(dir)).rejects.toThrow(`${file}: does not exist`);
    await writeFile(file, '{"model_type": ');
    await expect(loadModelConfig(dir)).rejects.toThrow(`${file}: is not valid JSON`);
    await writeFile(file, Buffer.from([0x7b, 0xff, 0x7d]));
    await expect(loadModelConfig(dir)).rejects.toThrow(`${file}: is not UTF-8`);
    await writeFile(file, " ".repeat((1 << 20) + 1));
    await expect(loadModelConfig(dir)).rejects.toThrow("at most 1048576");
    await writeFile(file, JSON.stringify(qwen05));
    const config = await loadModelConfig(dir);
    expect(config.hiddenSize).toBe(896);
    expect((await loadGenerationConfig(dir, config)).doSample).toBe(false);
  });
});
