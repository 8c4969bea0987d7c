import { join } from "node:path";
import { z } from "zod";
import { AdapterError } from "./errors.ts";
import { checkJson, finishSave, readJson } from "./folder.ts";

export const PROMPT_FILE = "prompt.json";
const FORMAT = 1;

/** Where instruction, input and answer go in a template. */
const SLOT = "{}";

/** How a question is put to an adapter: exactly as its training put it. */
export const promptFormatSchema = z.object({
  format: z.literal(FORMAT, {
    error: ({ input }) => `is ${JSON.stringify(input)}; this program reads format ${FORMAT}, a newer one may read it`,
  }),
  /** Text with three `{}`: instruction, input and answer. */
  template: z.string().refine((t) => t.split(SLOT).length === 4, {
    error: ({ input }) =>
      `must hold {} three times, for instruction, input and answer, not ${String(input).split(SLOT).length - 1} times`,
  }),
  /** The instruction of a question that comes without one. */
  instruction: z.string(),
  /** Ends an answer. */
  end_token: z.string().min(1),
  /** Name of the model that the adapter was trained on. */
  base_model: z.string(),
});

export type PromptFormat = z.output<typeof promptFormatSchema>;

/** The Alpaca-like template that training and questions use. */
export const DEFAULT_TEMPLATE = "### Instruction:\n{}\n\n### Input:\n{}\n\n### Response:\n{}";
/** The instruction of a question where nothing says another. */
export const DEFAULT_INSTRUCTION = "回答关于飞跃云产品的问题";
export const DEFAULT_END_TOKEN = "<|im_end|>";

/** The format of the default template. */
export function promptFormat(baseModel: string, instruction = DEFAULT_INSTRUCTION): PromptFormat {
  return {
    format: FORMAT,
    template: DEFAULT_TEMPLATE,
    instruction,
    end_token: DEFAULT_END_TOKEN,
    base_model: baseModel,
  };
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
  format: Pick<PromptFormat, "template" | "instruction">,
): string {
  const [before, between, after] = format.template.split(SLOT);
  return before + (instruction ?? format.instruction) + between + input + after;
}

/** The whole text to train on, without the end token: prompt, answer, and what the template has behind it. */
export function sequenceOf(example: Example, format: Pick<PromptFormat, "template" | "instruction">): string {
  return promptOf(example, format) + example.output + format.template.split(SLOT)[3];
}

/** The text of a `prompt.json`. */
export function formatPrompt(prompt: PromptFormat): string {
  return `${JSON.stringify(promptFormatSchema.parse(prompt), null, 2)}\n`;
}

/**
 * The `prompt.json` of an adapter's folder; undefined where there is none, as in a folder that PEFT wrote.
 * @throws AdapterError when it is broken or of a newer format
 */
export async function readPrompt(folder: string): Promise<PromptFormat | undefined> {
  await finishSave(folder);
  const path = join(folder, PROMPT_FILE);
  const json = await readJson(path);
  if (json === undefined) return undefined;
  if (typeof json !== "object" || json === null) throw new AdapterError(path, "is not a JSON object");
  return checkJson(promptFormatSchema, json, path);
}
