import { noGrad, type Tensor } from "@tslm/tensor";
import { maskScores } from "../generate/penalties.ts";
import { logSumExp, mostLikely } from "../generate/score.ts";
import type { Answer, ChosenLogprobs, ChosenToken } from "./answer.ts";

/** An answer, and the rows of scores that its next tokens are chosen from. */
export interface Choosing {
  readonly answer: Answer;
  /** The row of scores for its next token; those for the places behind proposed tokens follow. */
  readonly row: number;
  readonly proposed: readonly number[];
}

/**
 * Chooses the next token of each answer, and those after it as long as the proposed ones are the ones chosen. Where only
 * the likeliest token is asked for, the device finds it and one read brings all; other answers' scores are read each.
 *
 * @param logits f32 [rows, vocabulary]
 */
export async function chooseAll(choosing: readonly Choosing[], logits: Tensor): Promise<void> {
  const likeliest = choosing.some(({ answer }) => answer.isGreedy) ? await likeliestOf(logits) : undefined;
  const now = performance.now();
  for (const { answer, row, proposed } of choosing) {
    try {
      for (let i = 0; i <= proposed.length; i++) {
        const chosen = answer.isGreedy
          ? { token: likeliest![row + i] }
          : await chooseToken(answer, await scoresOf(logits, row + i));
        if (!answer.take(chosen, now) || chosen.token !== proposed[i]) break;
      }
      answer.flush();
    } catch (error) {
      // Scores that are no numbers, or a constraint that failed: nobody else's matter.
      answer.fail(error);
    }
  }
}

async function likeliestOf(logits: Tensor): Promise<ArrayLike<number>> {
  const tokens = noGrad(() => logits.argmax());
  try {
    return await tokens.data();
  } finally {
    tokens.dispose();
  }
}

async function scoresOf(logits: Tensor, row: number): Promise<Float32Array> {
  const scores = noGrad(() => logits.slice(0, row, row + 1));
  try {
    return (await scores.data()) as Float32Array;
  } finally {
    scores.dispose();
  }
}

/** The token an answer goes on with, from the scores of every token, f32 [vocabulary]; they are changed. */
async function chooseToken(answer: Answer, logits: Float32Array): Promise<ChosenToken> {
  const { logprobs: wanted } = answer.submission.request;
  const asked = wanted === undefined ? undefined : { all: logits.slice(), wanted };
  const allowed = answer.constraint?.allowed();
  if (allowed) maskScores(logits, allowed);
  const token = await answer.sampler.choose(logits, answer.tokens, answer.promptLength);
  return { token, logprobs: asked && logprobsOf(asked.all, token, asked.wanted) };
}

function logprobsOf(logits: Float32Array, chosen: number, count: number): ChosenLogprobs {
  const total = logSumExp(logits);
  return {
    chosen: { token: chosen, logprob: logits[chosen] - total },
    top: mostLikely(logits, count).map(([token, logit]) => ({ token, logprob: logit - total })),
  };
}
