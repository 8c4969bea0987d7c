import { describe, expect, test } from "bun:test";
import type { ContextPolicy, Message, PromptInput } from "../backend.ts";
import { type Encoder, fit } from "./fit.ts";

/** A token a character; a message has its role's first letter before it and a stop behind. */
const encoder: Encoder = {
  encode: (prompt) => {
    const text =
      "messages" in prompt
        ? prompt.messages.map(({ role, content }) => `${role[0]}${content}.`).join("")
        : "text" in prompt
          ? prompt.text
          : String.fromCharCode(...prompt.tokens);
    return [...text].map((char) => char.charCodeAt(0));
  },
  decode: (tokens) => String.fromCharCode(...tokens),
};
const fitted = (prompt: PromptInput, policy: ContextPolicy, positions: number, maxTokens = 1) => {
  const { tokens, dropped } = fit(prompt, encoder, { policy, positions, maxTokens });
  return { text: encoder.decode(tokens), dropped };
};
const says = (...lines: string[]): Message[] =>
  lines.map((line) => {
    const role = ({ s: "system", u: "user", a: "assistant", t: "tool" } as const)[line[0] as "s" | "u" | "a" | "t"];
    return { role, content: line.slice(1) };
  });

const TALK = { messages: says("sBe.", "uone", "aeins", "utwo", "azwei", "uthree", "adrei", "ufour") };

describe("a prompt that is too long", () => {
  test("fits: nothing is dropped, whatever the policy", () => {
    for (const policy of ["error", "trim-oldest", "trim-middle"] as const) {
      expect(fitted(TALK, policy, 100)).toEqual({ text: "sBe..uone.aeins.utwo.azwei.uthree.adrei.ufour.", dropped: 0 });
    }
  });

  test("error: refused, in numbers", () => {
    expect(() => fitted(TALK, "error", 20)).toThrow("has 46 tokens, but the model has room for 20");
    // The answer needs a position of its own.
    expect(() => fitted({ text: "x".repeat(20) }, "error", 20)).toThrow("has 20 tokens");
    expect(fitted({ text: "x".repeat(19) }, "error", 20).dropped).toBe(0);
  });

  test("trim-oldest: the oldest turns go, no more than needed; never the system text nor the last message", () => {
    expect(fitted(TALK, "trim-oldest", 46)).toEqual({ text: "sBe..utwo.azwei.uthree.adrei.ufour.", dropped: 11 });
    expect(fitted(TALK, "trim-oldest", 30)).toEqual({ text: "sBe..uthree.adrei.ufour.", dropped: 22 });
    expect(fitted(TALK, "trim-oldest", 12)).toEqual({ text: "sBe..ufour.", dropped: 35 });
    expect(() => fitted(TALK, "trim-oldest", 11)).toThrow("what it must keep is too long");
  });

  test("trim-middle: the first turn stays as long as it may, then the middle of the last message goes", () => {
    expect(fitted(TALK, "trim-middle", 40)).toEqual({ text: "sBe..uone.aeins.uthree.adrei.ufour.", dropped: 11 });
    expect(fitted(TALK, "trim-middle", 23)).toEqual({ text: "sBe..uone.aeins.ufour.", dropped: 24 });
    expect(fitted(TALK, "trim-middle", 22)).toEqual({ text: "sBe..ufour.", dropped: 35 });
    const long = { messages: says(`u${"a".repeat(50)}${"b".repeat(50)}`) };
    const { text, dropped } = fitted(long, "trim-middle", 40);
    expect(text).toMatch(/^ua+ … b+\.$/);
    expect(text.length).toBeLessThan(40);
    expect(dropped).toBe(102 - text.length);
  });

  test("a tool's answer goes with the call it belongs to", () => {
    const talk = { messages: says("uask", "acall", "tresult", "adone", "unext") };
    expect(fitted(talk, "trim-oldest", 20).text).toBe("unext.");
  });

  test("texts and tokens are cut token by token, and leave room for the answer", () => {
    expect(fitted({ text: "abcdefghij" }, "trim-oldest", 8, 3).text).toBe("efghij");
    expect(fitted({ text: "abcdefghij" }, "trim-middle", 8, 1).text).toBe("abcdhij");
    // At most a quarter is left for the answer.
    expect(fitted({ text: "abcdefghij" }, "trim-oldest", 8, 1000)).toEqual({ text: "efghij", dropped: 4 });
  });

  test("an empty prompt is refused", () => {
    expect(() => fitted({ text: "" }, "trim-oldest", 8)).toThrow("the prompt is empty");
  });
});
