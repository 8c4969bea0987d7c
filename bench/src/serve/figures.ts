import { type Contender, isOurs } from "./contenders.ts";
import type { Measured } from "./measure.ts";

/** What is told of one contender with so many streams. Times are milliseconds. */
export interface Row {
  readonly contender: Contender;
  readonly streams: number;
  readonly prompt_tokens: number;
  /** Of all answers together, the reading of the prompts included. */
  readonly tokens_per_s: number;
  readonly first_token_ms: Percentiles;
  readonly between_tokens_ms: Percentiles;
  /** Were the answers that were asked for alone as well the same? */
  readonly same_alone?: boolean;
  readonly repeated_prompt?: {
    readonly tokens: number;
    readonly reused: number;
    readonly first_token_ms: number;
    readonly again_ms: number;
  };
  /** Of llama.cpp: the share of its answers before they part from those of the same weights here. */
  readonly same_as_gguf?: number;
}

interface Percentiles {
  readonly p50: number;
  readonly p99: number;
}

export function rowOf(contender: Contender, streams: number, measured: Measured, gguf?: Measured): Row {
  const { repeated } = measured;
  return {
    ...{ contender, streams, prompt_tokens: measured.promptTokens },
    tokens_per_s: rounded(measured.completionTokens / measured.seconds),
    ...{ first_token_ms: percentiles(measured.first), between_tokens_ms: percentiles(measured.between) },
    ...(streams > 1 && { same_alone: measured.differentAlone.length === 0 }),
    ...(repeated && {
      repeated_prompt: {
        ...{ tokens: repeated.tokens, reused: repeated.reused },
        ...{ first_token_ms: rounded(repeated.fresh), again_ms: rounded(repeated.again) },
      },
    }),
    // The same weights: what both go on with is the same until rounding decides otherwise.
    ...(contender === "llama.cpp" && gguf && { same_as_gguf: sameBeginning(gguf.answers, measured.answers) }),
  };
}

/** One figure in proportion to another. */
export interface Ratio {
  readonly ratio: string;
  readonly value: number;
  /** What it should be at least, where something is asked for. */
  readonly wanted?: number;
}

/** Streams at which the server is to be faster than llama.cpp's, and than itself with one. */
const MANY = 16;

/** What the rows say of each other; greater is better for the one that is named first. */
export function ratiosOf(rows: readonly Row[]): Ratio[] {
  const ratios: Ratio[] = [];
  const add = (ratio: string, value: number, wanted?: number): void => {
    ratios.push({ ratio, value: rounded(value), ...(wanted !== undefined && { wanted }) });
  };
  const find = (contender: string, streams: number): Row | undefined =>
    rows.find((row) => row.contender === contender && row.streams === streams);
  for (const row of rows.filter(({ contender }) => isOurs(contender) && !contender.startsWith("engine:"))) {
    const { contender, streams, tokens_per_s: rate, first_token_ms: first, repeated_prompt: repeated } = row;
    const with_ = streams === 1 ? "1 stream" : `${streams} streams`;
    const theirs = find("llama.cpp", streams);
    const bar = (wanted: number): number | undefined => (streams === MANY ? wanted : undefined);
    if (theirs) {
      add(`tokens/s, ${with_}, ${contender} to llama.cpp`, rate / theirs.tokens_per_s, bar(1.5));
      for (const p of ["p50", "p99"] as const)
        add(`first token, ${p}, ${with_}, llama.cpp to ${contender}`, theirs.first_token_ms[p] / first[p], bar(1));
    }
    const one = find(contender, 1);
    if (one && streams > 1) {
      const wanted = contender === "bf16" ? bar(4) : undefined;
      add(`tokens/s, ${contender}, ${with_} to one`, rate / one.tokens_per_s, wanted);
    }
    const engine = find(`engine:${contender}`, streams);
    if (engine) add(`tokens/s, ${contender}, ${with_}, over HTTP to the engine alone`, rate / engine.tokens_per_s);
    if (repeated) {
      const { tokens, first_token_ms, again_ms } = repeated;
      add(`first token of ${tokens}, ${contender}, new to known`, first_token_ms / again_ms, 5);
    }
  }
  return ratios;
}

/** Median and 99th percentile: the values that such a share of all are at most. */
export function percentiles(values: readonly number[]): Percentiles {
  const sorted = values.toSorted((a, b) => a - b);
  const at = (p: number): number => rounded(sorted[Math.max(0, Math.ceil(p * sorted.length) - 1)] ?? Number.NaN);
  return { p50: at(0.5), p99: at(0.99) };
}

/** The share of the answers' characters before two contenders part. */
export function sameBeginning(ours: readonly string[], theirs: readonly string[]): number {
  let [same, all] = [0, 0];
  ours.forEach((answer, i) => {
    const parting = [...answer].findIndex((_, at) => answer[at] !== theirs[i][at]);
    same += parting < 0 ? answer.length : parting;
    all += answer.length;
  });
  return Number((same / all).toPrecision(2));
}

const rounded = (value: number): number => Number(value.toPrecision(4));
