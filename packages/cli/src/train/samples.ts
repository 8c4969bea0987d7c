import { isAnswered, type Lora, type PromptFormat } from "@tslm/lora";
import type { Qwen } from "@tslm/qwen";
import type { Answer } from "@tslm/watch";
import { questionOf, type Sample } from "../recipe.ts";
import { putSample } from "../training-data.ts";

/** Longest sample answer. */
const SAMPLE_TOKENS = 100;

/** The sample questions, put as training puts them. */
export class SampleQuestions {
  readonly samples: readonly Sample[];
  /** Each as the model reads it. */
  readonly prompts: readonly { readonly text: string; readonly ids: readonly number[] }[];
  readonly #qwen: Qwen;

  constructor(qwen: Qwen, samples: readonly Sample[], prompt: PromptFormat) {
    this.#qwen = qwen;
    this.samples = samples;
    this.prompts = samples.map((sample) => putSample(sample, prompt, qwen.tokenizer));
  }

  /** Answers all of them, greedily and without dropout, also in the middle of a training that it does not change. */
  async ask({ dropout }: Lora, signal: AbortSignal): Promise<Answer[]> {
    const wasTraining = dropout.training;
    dropout.training = false;
    try {
      const answers: Answer[] = [];
      for (const [i, sample] of this.samples.entries()) {
        const { text } = await this.#qwen.complete(this.prompts[i].ids, { maxNewTokens: SAMPLE_TOKENS, signal });
        signal.throwIfAborted();
        answers.push({ question: questionOf(sample), expected: sample.expected || undefined, answer: text });
      }
      return answers;
    } finally {
      dropout.training = wasTraining;
    }
  }

  /** Is every question that the data answers answered with what the data says? */
  async areAnswered(lora: Lora, signal: AbortSignal): Promise<boolean> {
    const known = (await this.ask(lora, signal)).filter(({ expected }) => expected !== undefined);
    return known.length > 0 && known.every(({ question, expected, answer }) => isAnswered(answer, expected!, question));
  }
}
