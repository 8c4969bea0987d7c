import type { AnswerEnd, AnswerStart } from "../../answers.ts";

/** Tokens of a request: of its prompts, and of all its answers. */
export function usageOf(starts: readonly AnswerStart[], ends: readonly AnswerEnd[]) {
  const sum = <T>(of: readonly T[], value: (of: T) => number): number => of.reduce((all, x) => all + value(x), 0);
  const prompt = sum(starts, ({ promptTokens }) => promptTokens);
  const completion = sum(ends, ({ usage }) => usage.completionTokens);
  return {
    prompt_tokens: prompt,
    completion_tokens: completion,
    total_tokens: prompt + completion,
    prompt_tokens_details: {
      // Of several answers to one prompt, the one that found least: the others found what that one left.
      cached_tokens: ends.length === 0 ? 0 : Math.min(...ends.map(({ usage }) => usage.cachedTokens)),
      dropped_tokens: sum(starts, ({ droppedTokens }) => droppedTokens),
    },
  };
}
