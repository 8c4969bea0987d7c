import { isAnswered, type PromptFormat } from "@tslm/lora";
import type { Qwen } from "@tslm/qwen";
import type { Answer } from "@tslm/watch";
import { questionOf, type Sample } from "../recipe.ts";
import { putSample } from "../training-data.ts";

/** Longest sample answer. */
const SAMPLE_TOKENS = 100;

/** An answer, and whether it came to its end token. */
export interface SampledAnswer extends Answer {
  ended: boolean;
}

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

  /** Answers all of them, greedily. The trainer has dropout off whenever it lets others compute. */
  async ask(signal: AbortSignal): Promise<SampledAnswer[]> {
    const answers: SampledAnswer[] = [];
    for (const [i, sample] of this.samples.entries()) {
      const { text, finishReason } = await this.#qwen.complete(this.prompts[i].ids, {
        maxNewTokens: SAMPLE_TOKENS,
        signal,
      });
      signal.throwIfAborted();
      const ended = finishReason === "stop";
      answers.push({ question: questionOf(sample), expected: sample.expected || undefined, answer: text, ended });
    }
    return answers;
  }

  /** Is every question that the data answers answered with what the data says? */
  async areAnswered(signal: AbortSignal): Promise<boolean> {
    const known = (await this.ask(signal)).filter(({ expected }) => expected !== undefined);
    return known.length > 0 && known.every(({ question, expected, answer }) => isAnswered(answer, expected!, question));
  }
}
