import type { AnswerPart } from "../../answers.ts";
import type { ShownToken } from "../../backend.ts";

export type PieceLogprobs = NonNullable<Extract<AnswerPart, { kind: "piece" }>["logprobs"]>;

/** JSON has no infinity; OpenAI writes this for a token that cannot come. */
const LEAST = -9999;
const finite = (logprob: number): number => Math.max(LEAST, logprob);

const shown = ({ text, bytes, logprob }: ShownToken) => ({ token: text, logprob: finite(logprob), bytes: [...bytes] });

/** As chats tell them. */
export function chatLogprobs(logprobs: PieceLogprobs) {
  return {
    content: logprobs.map(({ top, ...token }) => ({ ...shown(token), top_logprobs: top.map(shown) })),
    refusal: null,
  };
}

/** As completions tell them; offsets are counted from `offset`, in characters. */
export function completionLogprobs(logprobs: PieceLogprobs, offset: number) {
  let at = offset;
  return {
    tokens: logprobs.map(({ text }) => text),
    token_logprobs: logprobs.map(({ logprob }) => finite(logprob)),
    top_logprobs: logprobs.map(({ top }) => Object.fromEntries(top.map((t) => [t.text, finite(t.logprob)]))),
    text_offset: logprobs.map(({ text }) => {
      const begin = at;
      at += text.length;
      return begin;
    }),
  };
}
