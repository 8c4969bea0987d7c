import { isAnswered, type PromptFormat } from "@tslm/lora";
import { entropies, type Qwen } from "@tslm/qwen";
import type { Answer } from "@tslm/watch";
import { questionOf, type Sample } from "../recipe.ts";
import { putSample } from "../training-data.ts";

/** Longest sample answer. */
const SAMPLE_TOKENS = 100;

/** An answer, and whether it came to its end token. */
export interface SampledAnswer extends Answer {
  ended: boolean;
  /** Mean entropy of its tokens and its end, in nats, where it was asked for. */
  entropy?: number;
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

  /**
   * Answers all of them, greedily. The trainer has dropout off whenever it lets others compute.
   *
   * @param isMeasured with the entropy of each answer, which is one more pass over it
   */
  async ask(signal: AbortSignal, isMeasured = false): Promise<SampledAnswer[]> {
    const answers: SampledAnswer[] = [];
    for (const [i, sample] of this.samples.entries()) {
      const { ids } = this.prompts[i];
      const { text, tokens, finishReason } = await this.#qwen.complete(ids, { maxNewTokens: SAMPLE_TOKENS, signal });
      signal.throwIfAborted();
      answers.push({
        ...{ question: questionOf(sample), expected: sample.expected || undefined, answer: text },
        ended: finishReason === "stop",
        ...(isMeasured && { entropy: await this.#entropyOf([...ids, ...tokens], ids.length, signal) }),
      });
    }
    return answers;
  }

  async #entropyOf(ids: readonly number[], from: number, signal: AbortSignal): Promise<number> {
    const all = await entropies(this.#qwen.model, ids, from, { signal });
    return all.reduce((sum, value) => sum + value, 0) / all.length;
  }

  /** Is every question that the data answers answered with what the data says? */
  async areAnswered(signal: AbortSignal): Promise<boolean> {
    const known = (await this.ask(signal)).filter(({ expected }) => expected !== undefined);
    return known.length > 0 && known.every(({ question, expected, answer }) => isAnswered(answer, expected!, question));
  }
}
