import type { Module } from "@tslm/tensor";
import { z } from "zod";
import { baseFingerprint, baseFingerprintSchema, isSameBase } from "./base-fingerprint.ts";
import { type ChatMessage, type ChatTokenizer, encodeChatPrompt } from "./chat.ts";
import { LoraError } from "./errors.ts";

export const PROMPT_FILE = "prompt.json";

/** Where instruction, input and answer go in a template. */
const SLOT = "{}";

const shared = {
  /** Ends an answer. */
  end_token: z.string().min(1),
  /** Name of the model that the adapter was trained on. */
  base_model: z.string(),
  /** What tells that model from others; see `baseFingerprint`. */
  base_fingerprint: baseFingerprintSchema.optional(),
};

const templatePromptSchema = z.object({
  format: z.literal(1),
  /** Text with three `{}`: instruction, input and answer. */
  template: z.string().refine((t) => t.split(SLOT).length === 4, {
    error: ({ input }) =>
      `must hold {} three times, for instruction, input and answer, not ${String(input).split(SLOT).length - 1} times`,
  }),
  /** The instruction of a question that comes without one. */
  instruction: z.string(),
  ...shared,
});

const chatPromptSchema = z.object({
  format: z.literal(2),
  /** The system text of a question that comes without one; null: none, so that the model's chat template has its own. */
  system: z.string().nullable(),
  ...shared,
});

/** How a question is put to an adapter: exactly as its training put it. Format 1: into a template; 2: as a conversation. */
export const promptFormatSchema = z.discriminatedUnion("format", [templatePromptSchema, chatPromptSchema], {
  error: ({ input }) => {
    const { format } = (input ?? {}) as { format?: unknown };
    return `is ${JSON.stringify(format)}; this program reads formats 1 and 2, a newer one may read it`;
  },
});

/** A question goes into a template. */
export type TemplatePrompt = z.output<typeof templatePromptSchema>;
/** A question goes through the model's chat template. */
export type ChatPrompt = z.output<typeof chatPromptSchema>;
export type PromptFormat = TemplatePrompt | ChatPrompt;

/** The Alpaca-like template that training and questions use. */
export const DEFAULT_TEMPLATE = "### Instruction:\n{}\n\n### Input:\n{}\n\n### Response:\n{}";
/** The instruction of a question where nothing says another. */
export const DEFAULT_INSTRUCTION = "回答关于飞跃云产品的问题";
export const DEFAULT_END_TOKEN = "<|im_end|>";

/** The format of the default template. */
export function promptFormat(baseModel: string, instruction = DEFAULT_INSTRUCTION): TemplatePrompt {
  return {
    format: 1,
    template: DEFAULT_TEMPLATE,
    instruction,
    end_token: DEFAULT_END_TOKEN,
    base_model: baseModel,
  };
}

/** The format of questions that go through the model's chat template. */
export function chatPromptFormat(baseModel: string, system: string | null = null): ChatPrompt {
  return { format: 2, system, end_token: DEFAULT_END_TOKEN, base_model: baseModel };
}

/** A question. */
export interface Question {
  instruction?: string;
  input: string;
}

/** A question and its answer: a row of the training data. */
export interface Example extends Question {
  output: string;
}

/** The text up to where the answer begins. A `{}` in the question's own words stays as it is. */
export function promptOf(
  { instruction, input }: Question,
  format: Pick<TemplatePrompt, "template" | "instruction">,
): string {
  const [before, between, after] = format.template.split(SLOT);
  return before + (instruction ?? format.instruction) + between + input + after;
}

/** The whole text to train on, without the end token: prompt, answer, and what the template has behind it. */
export function sequenceOf(example: Example, format: Pick<TemplatePrompt, "template" | "instruction">): string {
  return promptOf(example, format) + example.output + format.template.split(SLOT)[3];
}

/**
 * A question as training put it: its text and its tokens. Where training knew conversations, the question may be the turns
 * up to the answer, and an instruction is the system text.
 *
 * @throws LoraError for turns where training knew only single questions
 */
export function putQuestion(
  question: Question | { readonly messages: readonly ChatMessage[] },
  format: PromptFormat,
  tokenizer: ChatTokenizer,
): { text: string; ids: number[] } {
  if ("messages" in question) {
    if (format.format === 1) throw new LoraError("this adapter was trained on single questions, not on conversations");
    return putMessages(withSystem(question.messages, format), tokenizer);
  }
  if (format.format === 2) {
    return putMessages(
      withSystem([{ role: "user", content: question.input }], format, question.instruction),
      tokenizer,
    );
  }
  const text = promptOf(question, format);
  return { text, ids: [...tokenizer.encode(text)] };
}

function putMessages(messages: readonly ChatMessage[], tokenizer: ChatTokenizer): { text: string; ids: number[] } {
  return {
    text: tokenizer.renderChat(messages, { addGenerationPrompt: true }),
    ids: encodeChatPrompt(messages, tokenizer),
  };
}

/** A conversation with the system text of training, unless it begins with one of its own. */
export function withSystem<M extends ChatMessage>(
  messages: readonly M[],
  { system: trained }: Pick<ChatPrompt, "system">,
  system: string | null = trained,
): readonly (M | { role: "system"; content: string })[] {
  return system === null || messages[0]?.role === "system"
    ? messages
    : [{ role: "system", content: system }, ...messages];
}

/** The text of a `prompt.json`. */
export function formatPrompt(prompt: PromptFormat): string {
  return `${JSON.stringify(promptFormatSchema.parse(prompt), null, 2)}\n`;
}

/**
 * Why an adapter's answers may be wrong on this model: it was trained on another one. Undefined where it was trained on this
 * one, or nothing says on which.
 */
export async function baseMismatch(prompt: PromptFormat | undefined, model: Module): Promise<string | undefined> {
  const trained = prompt?.base_fingerprint;
  if (trained === undefined || isSameBase(trained, await baseFingerprint(model))) return undefined;
  return `was trained on other weights than these of the same shape (${prompt!.base_model}); its answers will be wrong: give the model it belongs to with --model`;
}
