import { describe, expect, test } from "bun:test";
import { formatLoraConfig, parseLoraConfig } from "./config.ts";
import { ConfigError } from "./errors.ts";
import { scalingOf } from "./variants/rslora.ts";

const q = { target_modules: ["q_proj"] };

test("defaults are PEFT's", () => {
  const { r, lora_alpha, lora_dropout, use_rslora, init_lora_weights, bias } = parseLoraConfig(q);
  expect([r, lora_alpha, lora_dropout, use_rslora, init_lora_weights, bias]).toEqual([8, 8, 0, false, true, "none"]);
});

describe("a value that cannot be used is refused by a sentence that names the field", () => {
  const cases: [string, object, string][] = [
    ["r", { ...q, r: 0 }, "r must be a whole number of at least 1, not 0"],
    ["r", { ...q, r: 1.5 }, "r must be a whole number of at least 1, not 1.5"],
    ["r", { ...q, r: "8" }, 'r must be a whole number of at least 1, not "8"'],
    ["lora_alpha", { ...q, lora_alpha: Number.NaN }, "lora_alpha must be a number above 0, not null"],
    ["lora_alpha", { ...q, lora_alpha: -1 }, "lora_alpha must be a number above 0, not -1"],
    ["lora_dropout", { ...q, lora_dropout: 1 }, "lora_dropout must be a number from 0 up to, not including, 1, not 1"],
    ["target_modules", {}, "target_modules must be a list of layer names or a regular expression, not nothing"],
    [
      "target_modules",
      { target_modules: [] },
      "target_modules must be a list of layer names or a regular expression, and not empty, not []",
    ],
    [
      "rank_pattern.q_proj",
      { ...q, rank_pattern: { q_proj: 0 } },
      "rank_pattern.q_proj must be a whole number of at least 1, not 0",
    ],
    ["init_lora_weights", { ...q, init_lora_weights: "eva" }, 'init_lora_weights "eva" is not supported'],
    ["bias", { ...q, bias: "all" }, 'bias "all" is not supported'],
    ["fan_in_fan_out", { ...q, fan_in_fan_out: true }, "fan_in_fan_out is not supported"],
    ["peft_type", { ...q, peft_type: "IA3" }, 'peft_type "IA3" is not supported, only LORA is'],
    ["use_dora", { ...q, use_dora: true, init_lora_weights: "pissa" }, "use_dora with init_lora_weights"],
    ["use_qalora", { ...q, use_qalora: true }, "use_qalora is not supported; it is true in this configuration"],
    ["modules_to_save", { ...q, modules_to_save: ["lm_head"] }, 'modules_to_save is not supported; it is ["lm_head"]'],
    ["layer_replication", { ...q, layer_replication: [[0, 4]] }, "layer_replication is not supported"],
    ["use_some_future_thing", { ...q, use_some_future_thing: true }, "use_some_future_thing is not supported"],
    ["layers_to_transform", { target_modules: ".*", layers_to_transform: 1 }, "need target_modules as a list"],
    ["layers_pattern", { ...q, layers_pattern: "layers" }, "layers_pattern needs layers_to_transform"],
  ];
  test.each(cases)("%s %#", (field, config, sentence) => {
    let error: unknown;
    try {
      parseLoraConfig(config);
    } catch (e) {
      error = e;
    }
    expect(error).toBeInstanceOf(ConfigError);
    expect((error as ConfigError).message).toContain(sentence);
    expect((error as ConfigError).field).toBe(field);
  });
});

test("fields that ask for nothing pass", () => {
  const config = {
    ...q,
    use_dora: false,
    modules_to_save: null,
    target_parameters: [],
    loftq_config: {},
    some_new: null,
  };
  expect(parseLoraConfig({ ...config, some_new_size: 16, peft_version: "0.99.0" }).target_modules).toEqual(["q_proj"]);
});

test("what is written reads back the same", () => {
  const config = parseLoraConfig({
    r: 4,
    lora_alpha: 32,
    lora_dropout: 0.1,
    target_modules: ["q_proj", "v_proj"],
    exclude_modules: ["lm_head"],
    rank_pattern: { "0.self_attn.q_proj": 2 },
    alpha_pattern: { q_proj: 1.5 },
    use_rslora: true,
    base_model_name_or_path: "模型/Qwen",
  });
  expect(parseLoraConfig(JSON.parse(formatLoraConfig(config)))).toEqual(config);
});

test("scaling is α/r, with rsLoRA α/√r", () => {
  expect(scalingOf(4, 32, parseLoraConfig(q))).toBe(8);
  expect(scalingOf(4, 32, parseLoraConfig({ ...q, use_rslora: true }))).toBe(16);
});
