import type { ExampleFormat, TrainingExample } from "@tslm/data";
import { type ChatTokenizer, chatPromptFormat, type PromptFormat, promptFormat, putQuestion } from "@tslm/lora";
import type { Sample } from "./recipe.ts";

/** What a format is called. */
export const FORMAT_NAMES: Readonly<Record<ExampleFormat, string>> = {
  csv: "CSV",
  alpaca: "Alpaca JSON",
  messages: "chat messages",
  sharegpt: "ShareGPT",
  "prompt-completion": "prompt and completion",
};

/** Are these conversations, which go through the model's chat template? A file holds one kind. */
export function areConversations(examples: readonly TrainingExample[]): boolean {
  return examples[0]?.messages !== undefined;
}

/** How questions are put to a model that is trained on these examples. */
export function promptFormatOf(examples: readonly TrainingExample[], model: string): PromptFormat {
  if (!areConversations(examples)) {
    return promptFormat(model, mostFrequent(examples.map(({ instruction }) => instruction ?? "")));
  }
  return chatPromptFormat(
    model,
    mostFrequent(examples.map(({ messages }) => (messages?.[0].role === "system" ? messages[0].content : null))),
  );
}

/** The value that occurs most often, the first of equals. */
export function mostFrequent<T>(values: readonly T[]): T {
  const counts = new Map<T, number>();
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
  return [...counts].reduce((best, entry) => (entry[1] > best[1] ? entry : best))[0];
}

/** The sample question as training puts it: its text and its tokens. */
export function putSample(
  { messages, instruction, input }: Sample,
  format: PromptFormat,
  tokenizer: ChatTokenizer,
): { text: string; ids: readonly number[] } {
  return putQuestion(messages === undefined ? { instruction, input } : { messages }, format, tokenizer);
}
