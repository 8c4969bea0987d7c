import { type PromptFormat, putQuestion } from "@tslm/lora";
import type { Qwen } from "@tslm/qwen";

/** Texts whose logits are compared, put as training put its questions and, where there is a chat template, as a chat. */
const QUESTIONS = ["你好,请问你能做什么?", "How do I reset my password?"];
const CHAT = [{ role: "user", content: "Give me an example, please." }];

/** Longest answer to a question that is to be compared. */
const ANSWER_TOKENS = 100;

/** What a model makes of the texts. */
export interface Measured {
  /** Logits after each text. */
  readonly logits: readonly Float32Array[];
  /** Log-probabilities of the texts' own tokens. */
  readonly logprobs: readonly (readonly number[])[];
}

/** Prompts to compare models with, as tokens. */
export function comparisonPrompts(
  { tokenizer }: Qwen,
  prompt: PromptFormat,
  questions: readonly string[],
): readonly (readonly number[])[] {
  const put = [...questions, ...QUESTIONS].map((input) => putQuestion({ input }, prompt, tokenizer).ids);
  return tokenizer.hasChatTemplate ? [...put, tokenizer.encode(tokenizer.renderChat(CHAT))] : put;
}

/** What a model makes of the prompts. */
export async function measure(
  qwen: Qwen,
  prompts: readonly (readonly number[])[],
  signal: AbortSignal,
): Promise<Measured> {
  const logits: Float32Array[] = [];
  const logprobs: (readonly number[])[] = [];
  for (const ids of prompts) {
    const score = await qwen.score(ids, { signal });
    logits.push(score.logits);
    logprobs.push(score.tokenLogprobs);
  }
  return { logits, logprobs };
}

/** The answers to the first prompts, greedily. */
export async function answers(
  qwen: Qwen,
  prompts: readonly (readonly number[])[],
  endTokens: readonly number[],
  signal: AbortSignal,
): Promise<string[]> {
  const texts: string[] = [];
  for (const ids of prompts) {
    const { text } = await qwen.complete(ids, { maxNewTokens: ANSWER_TOKENS, endTokens, signal });
    signal.throwIfAborted();
    texts.push(text);
  }
  return texts;
}

/** How far two models are from each other. */
export interface Distance {
  /** Largest difference of a logit or of a token's log-probability. */
  readonly largest: number;
  /** Root of the mean squared difference of the logits, in standard deviations of the logits: 1 is nothing in common. */
  readonly relative: number;
  /** Standard deviation of the logits. */
  readonly deviation: number;
  /** Texts after which both would say the same token. */
  readonly sameToken: number;
  readonly prompts: number;
}

const DIFFERENT = { largest: Number.NaN, relative: Number.NaN, deviation: Number.NaN, sameToken: 0 };

/** How far `found` is from `wanted`. NaN anywhere makes the distances NaN. */
export function distanceOf(wanted: Measured, found: Measured): Distance {
  let largest = 0;
  let [squares, spread, count, sameToken] = [0, 0, 0, 0];
  const differ = (difference: number): void => {
    if (!(difference <= largest)) largest = difference;
  };
  for (const [i, a] of wanted.logits.entries()) {
    const b = found.logits[i];
    if (b.length !== a.length) return { ...DIFFERENT, prompts: wanted.logits.length };
    count += a.length;
    const mean = a.reduce((sum, x) => sum + x, 0) / a.length;
    for (let j = 0; j < a.length; j++) {
      differ(Math.abs(a[j] - b[j]));
      squares += (a[j] - b[j]) ** 2;
      spread += (a[j] - mean) ** 2;
    }
    if (best(a) === best(b)) sameToken++;
    for (const [j, logprob] of wanted.logprobs[i].entries()) differ(Math.abs(logprob - found.logprobs[i][j]));
  }
  const deviation = Math.sqrt(spread / count);
  return { largest, relative: Math.sqrt(squares / spread), deviation, sameToken, prompts: wanted.logits.length };
}

function best(logits: Float32Array): number {
  let at = 0;
  for (let i = 1; i < logits.length; i++) if (logits[i] > logits[at]) at = i;
  return at;
}
