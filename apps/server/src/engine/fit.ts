import type { ContextPolicy, Message, PromptInput } from "../backend.ts";
import { ApiError } from "../errors.ts";

/** Makes tokens of prompts. */
export interface Encoder {
  encode(prompt: PromptInput): readonly number[];
  /** The text of tokens; characters that were cut through are U+FFFD. */
  decode(tokens: readonly number[]): string;
}

export interface FitOptions {
  readonly policy: ContextPolicy;
  /** Positions of prompt and answer together. */
  readonly positions: number;
  /** Tokens the answer may take. */
  readonly maxTokens: number | undefined;
}

export interface Fitted {
  readonly tokens: readonly number[];
  /** Tokens that were left out. */
  readonly dropped: number;
}

/**
 * A prompt's tokens, cut as the policy says where the model has no room for them. A cut leaves room for the answer, at most a
 * quarter of all.
 *
 * @throws ApiError "unprocessable" when it cannot be made to fit
 */
export function fit(prompt: PromptInput, encoder: Encoder, options: FitOptions): Fitted {
  const { policy, positions, maxTokens = positions } = options;
  const whole = encoder.encode(prompt);
  if (whole.length === 0) {
    throw new ApiError("invalid_request", "the prompt is empty; the model needs at least one token to go on from", {
      param: "prompt",
    });
  }
  if (whole.length < positions && policy === "error") return { tokens: whole, dropped: 0 };
  const limit = positions - Math.max(1, Math.min(maxTokens, positions >> 2));
  if (whole.length <= limit) return { tokens: whole, dropped: 0 };
  const cut = policy === "error" ? undefined : cutOf(prompt, whole, encoder, policy, limit);
  if (cut === undefined) throw tooLong(prompt, whole.length, positions, policy);
  return { tokens: cut, dropped: whole.length - cut.length };
}

function cutOf(
  prompt: PromptInput,
  whole: readonly number[],
  encoder: Encoder,
  policy: Exclude<ContextPolicy, "error">,
  limit: number,
): readonly number[] | undefined {
  if (!("messages" in prompt)) return policy === "trim-oldest" ? whole.slice(-limit) : withoutMiddle(whole, limit);
  const { system, turns } = turnsOf(prompt.messages);
  const put = (kept: readonly (readonly Message[])[]): readonly number[] =>
    encoder.encode({ ...prompt, messages: [...system, ...kept.flat()] });
  // The first question often says what all is about.
  const spared = policy === "trim-middle" && turns.length > 2 ? 1 : 0;
  const left = (count: number): (readonly Message[])[] => [...turns.slice(0, spared), ...turns.slice(spared + count)];
  // How many turns must go is found by halving: each look costs a tokenisation.
  let [fewest, most] = [1, turns.length - 1 - spared];
  if (most >= 1 && put(left(most)).length <= limit) {
    while (fewest < most) {
      const middle = (fewest + most) >> 1;
      if (put(left(middle)).length <= limit) most = middle;
      else fewest = middle + 1;
    }
    return put(left(most));
  }
  const last = put(turns.slice(-1));
  if (last.length <= limit) return last;
  return policy === "trim-middle" ? withoutMiddleOfLast(prompt, system, turns.at(-1) ?? [], encoder, limit) : undefined;
}

/** The system text, and questions each with what followed it. */
function turnsOf(messages: readonly Message[]): { system: Message[]; turns: Message[][] } {
  const system = messages.filter(({ role }) => role === "system");
  const turns: Message[][] = [];
  for (const message of messages) {
    if (message.role === "system") continue;
    if (message.role === "user" || turns.length === 0) turns.push([]);
    turns.at(-1)!.push(message);
  }
  return { system, turns };
}

function withoutMiddle<T>(all: readonly T[], length: number): T[] {
  const head = Math.ceil(length / 2);
  return [...all.slice(0, head), ...all.slice(all.length - (length - head))];
}

/** Cuts the longest message of the last turn in its middle. */
function withoutMiddleOfLast(
  prompt: Extract<PromptInput, { messages: unknown }>,
  system: readonly Message[],
  turn: readonly Message[],
  encoder: Encoder,
  limit: number,
): readonly number[] | undefined {
  const longest = turn.reduce((best, { content }, i) => (content.length > turn[best].content.length ? i : best), 0);
  if (turn.length === 0) return undefined;
  const content = encoder.encode({ text: turn[longest].content });
  const rest = encoder.encode({ ...prompt, messages: [...system, ...turn.with(longest, emptied(turn[longest]))] });
  // Seams may tokenise otherwise than the whole: a few tokens less until it fits.
  for (let keep = limit - rest.length; keep > 0; keep -= 8) {
    const half = Math.ceil(keep / 2);
    const head = encoder.decode(content.slice(0, half)).replace(/\ufffd+$/, "");
    const tail = encoder.decode(content.slice(content.length - (keep - half))).replace(/^\ufffd+/, "");
    const cut = { ...turn[longest], content: `${head} … ${tail}` };
    const tokens = encoder.encode({ ...prompt, messages: [...system, ...turn.with(longest, cut)] });
    if (tokens.length <= limit) return tokens;
  }
  return undefined;
}

const emptied = (message: Message): Message => ({ ...message, content: "" });

function tooLong(prompt: PromptInput, tokens: number, positions: number, policy: ContextPolicy): ApiError {
  const what = "messages" in prompt ? "conversation" : "prompt";
  const whole = `the ${what} has ${tokens} tokens, but the model has room for ${positions} with the answer`;
  const advice =
    policy === "error"
      ? "shorten or drop some of it, or ask with context_policy trim-oldest or trim-middle"
      : `and ${policy} cannot make it fit: what it must keep is too long`;
  return new ApiError("unprocessable", `${whole}; ${advice}`, {
    param: "messages" in prompt ? "message" : "prompt",
    code: "context_length_exceeded",
  });
}
