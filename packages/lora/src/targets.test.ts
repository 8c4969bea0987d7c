import { describe, expect, test } from "bun:test";
import { Generator } from "@tslm/tensor";
import { type LoraConfigInput, parseLoraConfig } from "./config.ts";
import { applyLora } from "./lora.ts";
import { rankAndAlpha, targetLayers } from "./targets.ts";
import { TinyModel } from "./testing.ts";

const attn = (layer: number, ...names: string[]): string[] =>
  names.map((n) => `model.layers.${layer}.self_attn.${n}_proj`);

function targets(config: Omit<LoraConfigInput, "r">, model = new TinyModel({ layers: 3 })): string[] {
  return [...targetLayers(model, parseLoraConfig(config)).keys()];
}

describe("PEFT's target rules", () => {
  const cases: [string, Omit<LoraConfigInput, "r">, string[]][] = [
    ["an ending", { target_modules: ["q_proj"] }, [...attn(0, "q"), ...attn(1, "q"), ...attn(2, "q")]],
    ["a longer ending", { target_modules: ["1.self_attn.q_proj"] }, attn(1, "q")],
    ["a full name", { target_modules: ["model.layers.2.self_attn.v_proj"] }, attn(2, "v")],
    ["the head by name", { target_modules: ["lm_head"] }, ["lm_head"]],
    [
      "an expression on the whole name",
      { target_modules: "model\\.layers\\.[02]\\..*\\.(q|k)_proj" },
      [...attn(0, "q", "k"), ...attn(2, "q", "k")],
    ],
    [
      "an expression is no ending",
      { target_modules: ".*q_proj|lm_head" },
      [...attn(0, "q"), ...attn(1, "q"), ...attn(2, "q"), "lm_head"],
    ],
    ["a named group as in Python", { target_modules: ".*\\.(?P<n>1)\\..*\\.o_proj" }, attn(1, "o")],
    [
      "all linear layers but the head",
      { target_modules: "all-linear" },
      [0, 1, 2].flatMap((n) => attn(n, "q", "k", "v", "o")),
    ],
    [
      "in capitals",
      { target_modules: "All-Linear", exclude_modules: ".*layers\\.[12].*" },
      attn(0, "q", "k", "v", "o"),
    ],
    ["one layer", { target_modules: ["q_proj", "v_proj"], layers_to_transform: 1 }, attn(1, "q", "v")],
    [
      "some layers",
      { target_modules: ["q_proj"], layers_to_transform: [0, 2], layers_pattern: "layers" },
      [...attn(0, "q"), ...attn(2, "q")],
    ],
    [
      "no layers named: all",
      { target_modules: ["q_proj"], layers_to_transform: [] },
      [...attn(0, "q"), ...attn(1, "q"), ...attn(2, "q")],
    ],
    [
      "excluded by ending",
      { target_modules: ["q_proj", "v_proj"], exclude_modules: ["1.self_attn.q_proj", "v_proj"] },
      [...attn(0, "q"), ...attn(2, "q")],
    ],
    ["excluded by expression", { target_modules: ["q_proj"], exclude_modules: ".*\\.[01]\\..*" }, attn(2, "q")],
  ];
  test.each(cases)("%s", (_, config, expected) => {
    expect(targets(config)).toEqual(expected);
  });

  test("a head that shares the embedding's weight is the head, whatever its name", () => {
    expect(targets({ target_modules: "all-linear" }, new TinyModel({ layers: 1, tied: true }))).toEqual(
      attn(0, "q", "k", "v", "o"),
    );
  });

  test("an ending begins at a dot", () => {
    expect(() => targets({ target_modules: ["_proj"] })).toThrow("match no layer");
  });
});

describe("what does not match is named", () => {
  const cases: [string, LoraConfigInput, string][] = [
    [
      "no layer",
      { target_modules: ["c_attn"] },
      'target_modules ["c_attn"] match no layer; the linear layers of this model are q_proj, k_proj, v_proj, o_proj, lm_head',
    ],
    [
      "one of two",
      { target_modules: ["q_proj", "v_prj"] },
      "target_modules: no layer is called v_prj; the linear layers of this model are q_proj, k_proj, v_proj, o_proj, lm_head",
    ],
    [
      "not a linear layer",
      { target_modules: ["embed_tokens"] },
      "target_modules match model.embed_tokens, a Embedding: only linear layers can carry LoRA",
    ],
    ["a broken expression", { target_modules: "(q_proj" }, 'target_modules: "(q_proj" is not a regular expression'],
    [
      "an expression that would be whole only by its frame",
      { target_modules: "q_proj)|(?:v_proj" },
      'target_modules: "q_proj)|(?:v_proj" is not a regular expression',
    ],
    [
      "all excluded",
      { target_modules: ["q_proj"], exclude_modules: ["q_proj"] },
      "exclude_modules, layers_to_transform and layers_pattern leave no layer of those that target_modules match",
    ],
    [
      "a layer there is not",
      { target_modules: ["q_proj"], layers_to_transform: [7] },
      "exclude_modules, layers_to_transform and layers_pattern leave no layer of those that target_modules match",
    ],
  ];
  test.each(cases)("%s", (_, config, sentence) => {
    expect(() => applyLora(new TinyModel({ layers: 3 }), config, new Generator(1))).toThrow(sentence);
  });
});

test("ranks and alphas of single layers", () => {
  const config = parseLoraConfig({
    r: 8,
    lora_alpha: 16,
    target_modules: ["q_proj"],
    rank_pattern: { "0.self_attn.q_proj": 2, "layers.[12].self_attn.q_proj": 4, q: 99 },
    alpha_pattern: { q_proj: 1 },
  });
  const of = (name: string) => Object.values(rankAndAlpha(name, config));
  expect(of("model.layers.0.self_attn.q_proj")).toEqual([2, 1]);
  expect(of("model.layers.2.self_attn.q_proj")).toEqual([4, 1]);
  expect(of("model.layers.3.self_attn.q_proj")).toEqual([8, 1]);
  expect(of("model.layers.3.self_attn.v_proj")).toEqual([8, 16]);
});
