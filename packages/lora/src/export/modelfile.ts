/** Ollama's Modelfile (https://docs.ollama.com/modelfile): its template language is Go's `text/template`. */

import { LoraError } from "../errors.ts";
import type { PromptFormat } from "../prompt.ts";

/** Renders a conversation through the chat template of the exported model. */
export type RenderChat = (messages: readonly { role: string; content: string }[]) => string;

const WHY_NOT_ADAPTER = [
  "# The adapter is merged into the weights below. ADAPTER is not used: Ollama converts PEFT adapters only of some",
  '# architectures, and answers "unsupported architecture" to those of Qwen2.',
];

/** @throws LoraError for what a Modelfile cannot hold */
function raw(text: string): string {
  if (text.includes('"""')) throw new LoraError('the prompt holds """, which a Modelfile has no way to write');
  return text;
}

/** Text that Go's templates leave as it is. */
function literal(text: string): string {
  return raw(text).replaceAll("{{", '{{ "{{" }}');
}

/** The system text, and what renders a conversation as training put it. */
interface OllamaTemplate {
  readonly system: string;
  readonly template: string;
}

const CHAT_ML =
  "{{ range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n";

/** The template of a model that was trained on conversations, if it is of the ChatML kind. */
function conversations(render: RenderChat): OllamaTemplate | undefined {
  const turns = ["system", "user", "assistant", "user"].map((role, i) => ({ role, content: `text ${i}` }));
  const expected = `${turns.map(({ role, content }) => `<|im_start|>${role}\n${content}<|im_end|>\n`).join("")}<|im_start|>assistant\n`;
  if (render(turns) !== expected) return undefined;
  const alone = render([{ role: "user", content: "text" }]);
  const [, system] = /^<\|im_start\|>system\n([\s\S]*?)<\|im_end\|>\n<\|im_start\|>user\n/.exec(alone) ?? [];
  return { system: system ?? "", template: CHAT_ML };
}

/** The template of a model that was trained on rows: the system text is the instruction, each question stands alone. */
function rows({ template, instruction, end_token }: Extract<PromptFormat, { format: 1 }>): OllamaTemplate {
  const [before, between, after, tail] = template.split("{}").map(literal);
  const question = `${before}{{ $instruction }}${between}{{ .Content }}${after}`;
  const answer = `{{ .Content }}${tail}${literal(end_token)}\n`;
  return {
    system: instruction,
    template: `{{ $instruction := "" }}{{ range .Messages }}{{ if eq .Role "system" }}{{ $instruction = .Content }}{{ else if eq .Role "user" }}${question}{{ else }}${answer}{{ end }}{{ end }}`,
  };
}

/**
 * The text of a Modelfile for a merged GGUF file: `ollama create NAME -f Modelfile` beside it makes a model that is asked as training
 * asked, stops where its answers end, and answers greedily, as `bun run ask` does.
 *
 * @param file name of the GGUF file beside it
 * @param isMerged is an adapter merged into it?
 * @throws LoraError for a prompt that a Modelfile cannot hold
 */
export function formatModelfile(file: string, prompt: PromptFormat, render: RenderChat, isMerged = true): string {
  const found = prompt.format === 1 ? rows(prompt) : conversations(render);
  const stops = [
    prompt.end_token,
    "<|endoftext|>",
    prompt.format === 1 ? prompt.template.split("\n")[0] : "<|im_start|>",
  ];
  const lines = [...(isMerged ? WHY_NOT_ADAPTER : []), `FROM ./${file}`, ""];
  if (found === undefined) {
    lines.push("# The model's chat template is none that is known here; Ollama takes it from the file.");
  } else {
    lines.push(
      "# As training put its questions. With another template the model answers as if it had not been trained.",
    );
    lines.push(`TEMPLATE """${found.template}"""`);
    if (found.system !== "") lines.push(`SYSTEM """${raw(found.system)}"""`);
  }
  lines.push("");
  for (const stop of new Set(stops)) if (stop.trim() !== "") lines.push(`PARAMETER stop ${JSON.stringify(stop)}`);
  lines.push("PARAMETER temperature 0", "PARAMETER repeat_penalty 1");
  return `${lines.join("\n")}\n`;
}
