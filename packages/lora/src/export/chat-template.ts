import type { PromptFormat } from "../prompt.ts";

/** A text as a string of Jinja. */
const quoted = (text: string): string => JSON.stringify(text);

/**
 * The chat template, in Jinja, of a model that an adapter was merged into: it puts a conversation as training put its
 * questions. Tools that chat with the model go by it; with another template the model answers as if it had not been trained.
 *
 * Where training put rows into a template, the system text is the instruction (the trained one where there is none), and each
 * user's message is a question of its own. Where training knew conversations, it is the model's own template, with the system text of
 * training where a conversation has none.
 *
 * @param own the model's chat template
 */
export function mergedChatTemplate(prompt: PromptFormat, own: string | undefined): string | undefined {
  if (prompt.format === 2) {
    if (own === undefined || prompt.system === null) return own;
    const system = `[{"role": "system", "content": ${quoted(prompt.system)}}]`;
    return `{%- if messages[0]["role"] != "system" %}{%- set messages = ${system} + messages %}{%- endif %}${own}`;
  }
  const [before, between, after, tail] = prompt.template.split("{}").map(quoted);
  const end = quoted(`${prompt.end_token}\n`);
  return [
    `{%- if messages[0]["role"] == "system" %}{%- set instruction = messages[0]["content"] %}`,
    `{%- else %}{%- set instruction = ${quoted(prompt.instruction)} %}{%- endif %}`,
    `{%- for message in messages %}`,
    `{%- if message["role"] == "user" %}{{- ${before} + instruction + ${between} + message["content"] + ${after} }}`,
    `{%- elif message["role"] == "assistant" %}{{- message["content"] + ${tail} + ${end} }}`,
    `{%- endif %}{%- endfor %}`,
  ].join("\n");
}
