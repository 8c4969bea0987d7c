import { describe, expect, test } from "bun:test";
import { Generator } from "@tslm/tensor";
import { applyLora } from "../lora.ts";
import { chatPromptFormat, promptFormat } from "../prompt.ts";
import { trainingRecord } from "../record.ts";
import { perturb, TinyModel } from "../testing.ts";
import { formatCard, isCard } from "./card.ts";
import { mergedChatTemplate } from "./chat-template.ts";
import { mergedParameters } from "./merged.ts";
import { formatModelfile, type RenderChat } from "./modelfile.ts";

const chatMl: RenderChat = (messages) => {
  const all = messages[0].role === "system" ? messages : [{ role: "system", content: "Be kind." }, ...messages];
  return `${all.map(({ role, content }) => `<|im_start|>${role}\n${content}<|im_end|>\n`).join("")}<|im_start|>assistant\n`;
};

test("parameters come merged, whether the adapter is attached or not, and are the caller's", async () => {
  const model = new TinyModel();
  const own = await model.stateDict().get("model.layers.0.self_attn.k_proj.weight")!.data();
  const lora = applyLora(model, { r: 2, target_modules: ["q_proj"] }, new Generator(1));
  await perturb(lora.parameters());
  lora.merge();
  const name = "model.layers.0.self_attn.q_proj";
  const wanted = await lora.layers.get(name)!.variant.mergedWeight(lora.layers.get(name)!).data();
  for (const attached of [true, false]) {
    if (!attached) lora.detach();
    const read = mergedParameters(model, lora);
    const merged = read(`${name}.weight`);
    expect(await merged.data()).toEqual(wanted);
    merged.dispose();
    const plain = read("model.layers.0.self_attn.k_proj.weight");
    expect(await plain.data()).toEqual(own);
    plain.dispose();
    expect(read("model.layers.0.self_attn.k_proj.weight").disposed).toBe(false);
    expect(() => read("model.other.weight")).toThrow("no parameter model.other.weight");
  }
});

describe("Modelfile", () => {
  // What Go's text/template makes of these was seen with Go 1.27: the prompt of training, for one turn and for several.
  test("of a model that learned rows asks as training asked", () => {
    const prompt = promptFormat("base", "Answer {{politely}}.");
    expect(
      formatModelfile("m.gguf", prompt, chatMl),
    ).toBe(`# The adapter is merged into the weights below. ADAPTER is not used: Ollama converts PEFT adapters only of some
# architectures, and answers "unsupported architecture" to those of Qwen2.
FROM ./m.gguf

# As training put its questions. With another template the model answers as if it had not been trained.
TEMPLATE """{{ $instruction := "" }}{{ range .Messages }}{{ if eq .Role "system" }}{{ $instruction = .Content }}{{ else if eq .Role "user" }}### Instruction:
{{ $instruction }}

### Input:
{{ .Content }}

### Response:
{{ else }}{{ .Content }}<|im_end|>
{{ end }}{{ end }}"""
SYSTEM """Answer {{politely}}."""

PARAMETER stop "<|im_end|>"
PARAMETER stop "<|endoftext|>"
PARAMETER stop "### Instruction:"
PARAMETER temperature 0
PARAMETER repeat_penalty 1
`);
    const odd = { ...prompt, template: "{{Q}} {} {} A: {}" };
    expect(formatModelfile("m.gguf", odd, chatMl)).toContain(
      '{{ else if eq .Role "user" }}{{ "{{" }}Q}} {{ $instruction }}',
    );
  });

  test("of a model that learned conversations is ChatML where the model's template is", () => {
    const text = formatModelfile("m.gguf", chatPromptFormat("base"), chatMl);
    expect(text).toContain(`TEMPLATE """{{ range .Messages }}<|im_start|>{{ .Role }}
{{ .Content }}<|im_end|>
{{ end }}<|im_start|>assistant
"""
SYSTEM """Be kind."""`);
    expect(text).toContain('PARAMETER stop "<|im_start|>"');
    const other = formatModelfile("m.gguf", chatPromptFormat("base"), (messages) => `[INST]${messages.length}`);
    expect(other).not.toContain("TEMPLATE");
    expect(other).toContain("Ollama takes it from the file");
  });

  test("refuses a text that it cannot hold", () => {
    expect(() => formatModelfile("m.gguf", promptFormat("base", 'say """'), chatMl)).toThrow(
      "a Modelfile has no way to write",
    );
  });
});

test("the chat template: of conversations the model's own, with the system text of training", () => {
  expect(mergedChatTemplate(chatPromptFormat("base"), "OWN")).toBe("OWN");
  expect(mergedChatTemplate(chatPromptFormat("base", 'Say "hi".'), "OWN")).toEndWith("%}OWN");
  expect(mergedChatTemplate(chatPromptFormat("base", "x"), undefined)).toBeUndefined();
  // Rendered in packages/cli/src/export/check.test.ts and, by transformers, in test/export.test.ts.
  expect(mergedChatTemplate(promptFormat("base", "x"), "OWN")).not.toContain("OWN");
});

test("a card has front matter, settings, data and results, and no folder of this machine", () => {
  const record = trainingRecord({
    base_model: "/home/me/models/qwen",
    data: { file: "/home/me/secret/rows.csv", examples: 5, tokens: 291, sha256: "ab".repeat(32) },
    options: { epochs: 3, lr: 2e-4, repeat: [], data: "a|b" },
    steps: [{ step: 1, epoch: 1, loss: 4.2, grad_norm: 7.3, lr: 2e-4, tokens: 233, seconds: 1.5, token_accuracy: 0.5 }],
    best: { step: 1, loss: 0.25 },
  });
  const lora = applyLora(new TinyModel(), { target_modules: ["q_proj"] }, new Generator(1));
  const options = { title: "mine", about: "About.", library: "peft", config: lora.config, record };
  const text = formatCard({ ...options, prompt: promptFormat("Qwen/Qwen2.5-0.5B-Instruct") });
  expect(text).toStartWith("---\nbase_model: Qwen/Qwen2.5-0.5B-Instruct\nlibrary_name: peft\n");
  for (const row of [
    "| epochs | 3 |",
    "| data | a\\|b |",
    "| file | rows.csv |",
    "| loss, last step | 4.2000 |",
    "| token accuracy, last step | 0.5000 |",
    "| best validation loss | 0.2500 (step 1) |",
  ]) {
    expect(text).toContain(row);
  }
  expect(text).not.toContain("/home/me");
  expect(text).not.toContain("repeat");
  expect(isCard(text)).toBe(true);
  expect(isCard("# My own notes\n")).toBe(false);
  expect(formatCard(options)).not.toContain("base_model:");
});
