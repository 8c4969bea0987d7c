import { type PromptFormat, promptOf, withSystem } from "@tslm/lora";
import { type ChatMessage, ChatTemplateError, type Tokenizer } from "@tslm/qwen";
import type { Message, PromptInput, Tool } from "../backend.ts";
import { ApiError } from "../errors.ts";

/** A text that frames messages, in which control tokens count, or one of a stranger, where not. */
interface Part {
  readonly text: string;
  readonly isFrame: boolean;
}

/** Makes prompts of conversations: the model's chat template, or how an adapter's training put questions. */
export class Prompts {
  readonly #tokenizer: Tokenizer;
  /** Finds what is written like a control token. */
  readonly #control: RegExp | undefined;
  #knowsTools: boolean | undefined;

  constructor(tokenizer: Tokenizer) {
    this.#tokenizer = tokenizer;
    const tokens = (tokenizer.files.json.added_tokens ?? []) as readonly { content: string; special?: boolean }[];
    const special = tokens.filter((token) => token.special).map(({ content }) => RegExp.escape(content));
    this.#control = special.length > 0 ? new RegExp(`(${special.join("|")})`, "g") : undefined;
  }

  /**
   * A prompt's text and tokens. Control tokens such as `<|im_end|>` that somebody wrote into a message are taken as the
   * characters they are written with: a message cannot end itself and begin another role's.
   *
   * @param format how the adapter's training put questions; undefined for the base model
   * @throws ApiError "unprocessable" when the model cannot be asked so
   */
  encode(prompt: PromptInput, format: PromptFormat | undefined): { text: string; tokens: number[] } {
    if ("tokens" in prompt) return { text: this.#tokenizer.decode(prompt.tokens), tokens: [...prompt.tokens] };
    if ("text" in prompt) return { text: prompt.text, tokens: this.#tokenizer.encode(prompt.text) };
    const { messages, tools = [], begin } = prompt;
    const parts = format?.format === 1 ? asRows(messages, tools, format) : this.#chat(messages, tools, format);
    if (begin !== undefined) parts.push({ text: begin, isFrame: true });
    return { text: parts.map(({ text }) => text).join(""), tokens: this.#encodeParts(parts) };
  }

  #encodeParts(parts: readonly Part[]): number[] {
    const isPlain = (text: string): boolean => this.#control === undefined || text.search(this.#control) < 0;
    // In one piece wherever possible: tokens may reach over the seams.
    if (parts.every(({ text, isFrame }) => isFrame || isPlain(text))) {
      return this.#tokenizer.encode(parts.map(({ text }) => text).join(""));
    }
    return parts.flatMap(({ text, isFrame }) => this.#tokenizer.encode(text, { specialTokens: isFrame }));
  }

  /** The conversation through the model's chat template, with the system text of the adapter's training. */
  #chat(given: readonly Message[], tools: readonly Tool[], format: PromptFormat | undefined): Part[] {
    const messages = (format?.format === 2 ? withSystem(given, format) : given) as readonly Message[];
    if (tools.length > 0 && !this.#canTools()) {
      throw new ApiError("invalid_request", "this model's chat template knows no tools; leave out tools", {
        param: "tools",
        code: "unsupported_value",
      });
    }
    // What looks like a control token is rendered as a mark, so that afterwards it is known what came from a message.
    const nonce = crypto.randomUUID();
    const found: string[] = [];
    const hide = <T>(value: T): T => {
      if (typeof value === "string") {
        if (this.#control === undefined) return value;
        return value.replaceAll(this.#control, (token) => `\ue000${nonce}:${found.push(token) - 1}\ue001`) as T;
      }
      if (Array.isArray(value)) return value.map(hide) as T;
      if (typeof value !== "object" || value === null) return value;
      return Object.fromEntries(Object.entries(value).map(([key, inner]) => [hide(key), hide(inner)])) as T;
    };
    const rendered = this.#render(hide(messages.map(toTemplate)), hide(tools));
    return rendered
      .split(new RegExp(`\ue000${nonce}:(\\d+)\ue001`))
      .map((text, i) => (i % 2 === 0 ? { text, isFrame: true } : { text: found[Number(text)], isFrame: false }));
  }

  #render(messages: readonly ChatMessage[], tools: readonly Tool[]): string {
    try {
      return this.#tokenizer.renderChat(messages, { tools: tools as unknown as Record<string, unknown>[] });
    } catch (cause) {
      if (!(cause instanceof ChatTemplateError)) throw cause;
      throw new ApiError("unprocessable", cause.message, { param: "messages", cause });
    }
  }

  /** Does the template show tools? */
  #canTools(): boolean {
    const name = "a_tool_that_is_looked_for";
    this.#knowsTools ??= this.#render(
      [{ role: "user", content: "x" }],
      [{ type: "function", function: { name, parameters: {} } }],
    ).includes(name);
    return this.#knowsTools;
  }
}

function toTemplate({ role, content, toolCalls }: Message): ChatMessage {
  return { role, content, ...(toolCalls && { tool_calls: toolCalls }) };
}

/**
 * The conversation as a training on rows put it: single questions one after another, each with its answer and the end token;
 * a system message takes the place of the instruction.
 */
function asRows(
  messages: readonly Message[],
  tools: readonly Tool[],
  format: Extract<PromptFormat, { format: 1 }>,
): Part[] {
  if (tools.length > 0 || messages.some(({ role }) => role === "tool")) {
    throw new ApiError("invalid_request", "this adapter was trained on single questions and knows no tools", {
      param: "tools",
      code: "unsupported_value",
    });
  }
  const parts: Part[] = [];
  let instruction: string | undefined;
  for (const { role, content } of messages) {
    if (role === "system") instruction = content;
    else if (role === "assistant")
      parts.push({ text: content, isFrame: false }, { text: `${format.end_token}\n`, isFrame: true });
    else parts.push({ text: promptOf({ instruction, input: content }, format), isFrame: false });
  }
  return parts;
}
