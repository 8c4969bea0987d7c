import { type Lora, type PromptFormat, promptOf, withSystem } from "@tslm/lora";
import { ChatTemplateError, type Qwen, type Tokenizer } from "@tslm/qwen";
import type { ChatEvent, ChatRequest, Chatter, Message, Prompt } from "../chat.ts";
import { ApiError } from "../errors.ts";

/** An adapter of a `ModelChatter`, not attached to the model. */
export interface ChatAdapter {
  readonly name: string;
  readonly lora: Lora;
  /** How training put a question: conversations with this adapter are laid out so. */
  readonly prompt: PromptFormat;
}

/** Answers with a model in this process, and adapters that are attached for the answer that wants them. */
export class ModelChatter implements Chatter {
  readonly model: string;
  readonly adapters: readonly string[];
  readonly device: Chatter["device"];
  readonly #qwen: Qwen;
  readonly #adapters: ReadonlyMap<string, ChatAdapter>;
  #attached: Lora | undefined;

  constructor(qwen: Qwen, { name, adapters }: { name: string; adapters: readonly ChatAdapter[] }) {
    this.#qwen = qwen;
    this.#adapters = new Map(adapters.map((adapter) => [adapter.name, adapter]));
    this.model = name;
    this.adapters = adapters.map((adapter) => adapter.name);
    this.device = qwen.device.info;
  }

  prepare(request: ChatRequest): Prompt {
    const { tokenizer, config } = this.#qwen;
    const adapter = request.adapter === null ? undefined : this.#adapters.get(request.adapter);
    const ids = adapter
      ? encodeAsTrained(tokenizer, adapter.prompt, request.messages)
      : encodeChat(tokenizer, request.messages);
    const positions = config.maxPositionEmbeddings;
    if (ids.length >= positions) {
      throw new ApiError(
        "unprocessable",
        `the conversation has ${ids.length} tokens, but the model has room for ${positions} with the answer; shorten or drop some of it`,
        { param: "message" },
      );
    }
    return { request, ids };
  }

  async *answer({ request, ids }: Prompt, signal: AbortSignal): AsyncGenerator<ChatEvent> {
    this.#attach(request.adapter);
    const { maxTokens: maxNewTokens, temperature, topP, topK, seed } = request;
    let completionTokens = 0;
    for await (const step of this.#qwen.generate(ids, { maxNewTokens, temperature, topP, topK, seed, signal })) {
      if (step.token !== undefined) completionTokens++;
      if (step.finishReason === "cancelled") throw signal.reason;
      if (step.text !== "") yield { delta: step.text };
      if (step.finishReason) yield { finishReason: step.finishReason, completionTokens };
    }
  }

  #attach(name: string | null): void {
    const wanted = name === null ? undefined : this.#adapters.get(name)?.lora;
    if (wanted === this.#attached) return;
    this.#attached?.detach();
    wanted?.attach();
    this.#attached = wanted;
  }
}

/** A text that the model wrote or was given as frame, in which control tokens count, or one of a stranger, where not. */
interface Part {
  readonly text: string;
  readonly isFrame: boolean;
}

/**
 * Tokens of a prompt. Control tokens such as `<|im_end|>` that somebody wrote into a message are taken as the characters
 * they are written with: a message cannot end itself and begin another role's.
 */
function encodeParts(tokenizer: Tokenizer, parts: readonly Part[]): number[] {
  const isPlain = (text: string): boolean => !tokenizer.encode(text).some((id) => tokenizer.isSpecial(id));
  // In one piece wherever possible: tokens may reach over the seams.
  if (parts.every(({ text, isFrame }) => isFrame || isPlain(text))) {
    return tokenizer.encode(parts.map(({ text }) => text).join(""));
  }
  return parts.flatMap(({ text, isFrame }) => tokenizer.encode(text, { specialTokens: isFrame }));
}

/** The conversation through the model's chat template. */
function encodeChat(tokenizer: Tokenizer, messages: readonly Message[]): number[] {
  // The template is rendered around marks, so that afterwards it is known what came from a message.
  const mark = (i: number): string => `\ue000${nonce}:${i}\ue001`;
  const nonce = crypto.randomUUID();
  try {
    if (messages.every(({ content }) => !tokenizer.encode(content).some((id) => tokenizer.isSpecial(id)))) {
      return tokenizer.encode(tokenizer.renderChat(messages));
    }
    const rendered = tokenizer.renderChat(messages.map(({ role }, i) => ({ role, content: mark(i) })));
    const pieces = rendered.split(new RegExp(`\ue000${nonce}:(\\d+)\ue001`));
    const parts = pieces.map((text, i) =>
      i % 2 === 0 ? { text, isFrame: true } : { text: messages[Number(text)].content, isFrame: false },
    );
    return encodeParts(tokenizer, parts);
  } catch (cause) {
    if (!(cause instanceof ChatTemplateError)) throw cause;
    throw new ApiError("unprocessable", cause.message, { param: "history", cause });
  }
}

/**
 * The conversation as the training put it: conversations through the chat template, with the training's system text; single
 * questions one after another, each with its answer and the end token, where a system message takes the place of the
 * instruction.
 */
function encodeAsTrained(tokenizer: Tokenizer, format: PromptFormat, messages: readonly Message[]): number[] {
  if (format.format === 2) return encodeChat(tokenizer, withSystem(messages, format));
  const parts: Part[] = [];
  let instruction: string | undefined;
  for (const { role, content } of messages) {
    if (role === "system") instruction = content;
    else if (role === "assistant")
      parts.push({ text: content, isFrame: false }, { text: `${format.end_token}\n`, isFrame: true });
    else parts.push({ text: promptOf({ instruction, input: content }, format), isFrame: false });
  }
  return encodeParts(tokenizer, parts);
}
