import { z } from "zod";
import { LONG_QUESTION, questionOf } from "./work.ts";

/** A part of an answer as it comes; the last one tells the counts. */
export interface Piece {
  readonly text: string;
  readonly usage?: Usage;
}

export interface Usage {
  readonly promptTokens: number;
  /** Of the prompt, those that were read before. */
  readonly cachedTokens: number;
  readonly completionTokens: number;
}

/** Puts a question as a chat; answered greedily, with exactly so many tokens. */
export type Ask = (question: string, tokens: number) => AsyncIterable<Piece>;

/** What is asked of one contender. */
export const order = z.object({
  /** Questions at once. */
  streams: z.int().min(1),
  /** Tokens of each answer. */
  tokens: z.int().min(1),
});

/** What was seen. Times are milliseconds. */
export const measured = z.object({
  /** From the first question until the last answer's end. */
  seconds: z.number(),
  promptTokens: z.int(),
  completionTokens: z.int(),
  /** Until the first text of each answer, and from each piece of text to the next. */
  first: z.array(z.number()),
  between: z.array(z.number()),
  answers: z.array(z.string()),
  /** Streams that were answered otherwise when they were asked alone. */
  differentAlone: z.array(z.int()),
  /** The first text of an answer to a question of about 400 tokens: new, and known. */
  repeated: z.object({ tokens: z.int(), reused: z.int(), fresh: z.number(), again: z.number() }).optional(),
});
export type Measured = z.output<typeof measured>;

/** Asks all streams' questions at once, then some alone; with one stream, a long question twice. */
export async function measure(ask: Ask, { streams, tokens }: z.output<typeof order>): Promise<Measured> {
  const all = Array.from({ length: streams }, (_, stream) => stream);
  // Kernels are made and memory is touched for as many rows as will run.
  await Promise.all(all.map((stream) => watch(ask(`${stream} warms up`, 3))));
  const started = performance.now();
  const watched = await Promise.all(all.map((stream) => watch(ask(questionOf(stream), tokens))));
  const seconds = (performance.now() - started) / 1000;
  const differentAlone: number[] = [];
  for (const stream of streams === 1 ? [] : [0, streams - 1]) {
    const { text } = await watch(ask(questionOf(stream), tokens));
    if (text !== watched[stream].text) differentAlone.push(stream);
  }
  const sum = (count: (usage: Usage) => number): number => watched.reduce((all, { usage }) => all + count(usage), 0);
  return {
    seconds,
    promptTokens: sum(({ promptTokens }) => promptTokens),
    completionTokens: sum(({ completionTokens }) => completionTokens),
    first: watched.map(({ first }) => first),
    between: watched.flatMap(({ between }) => between),
    answers: watched.map(({ text }) => text),
    differentAlone,
    ...(streams === 1 && { repeated: await repeatedQuestion(ask) }),
  };
}

async function watch(pieces: AsyncIterable<Piece>) {
  let last = performance.now();
  const times: number[] = [];
  let text = "";
  for await (const piece of pieces) {
    if (piece.usage) {
      if (times.length === 0) throw new Error("an answer had no text");
      const [first, ...between] = times;
      return { first, between, text, usage: piece.usage };
    }
    if (piece.text === "") continue;
    const now = performance.now();
    times.push(now - last);
    last = now;
    text += piece.text;
  }
  throw new Error("an answer ended without an end");
}

async function repeatedQuestion(ask: Ask) {
  const fresh = await watch(ask(LONG_QUESTION, 2));
  const again = await watch(ask(LONG_QUESTION, 2));
  const { promptTokens, cachedTokens } = again.usage;
  return { tokens: promptTokens, reused: cachedTokens, fresh: fresh.first, again: again.first };
}
