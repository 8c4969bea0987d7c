import { expect, test } from "bun:test";
import { mergedChatTemplate, promptFormat, promptOf } from "@tslm/lora";
import { ChatTemplate } from "@tslm/qwen";
import { check } from "./check.ts";
import type { Measured } from "./compare.ts";

const wave = (change: (x: number, i: number) => number): Measured => ({
  logits: [0, 1].map((n) => Float32Array.from({ length: 500 }, (_, i) => change(5 * Math.sin(i * 0.7 + n), i))),
  logprobs: [[-1, -2], [-3]],
});
const wanted = wave((x) => x);
const base = wave((x, i) => x + Math.cos(i));
const noisy = (size: number): Measured => wave((x, i) => x + size * Math.sin(i * i));

test("what is right within rounding passes", () => {
  const exact = check("f32", { wanted, base, found: wanted });
  expect(exact).toMatchObject({ largest: 0, relative: 0, sameToken: 2, prompts: 2 });
  expect(exact.fromBase).toBeGreaterThan(0.1);
  expect(check("q8_0", { wanted, base: undefined, found: noisy(0.1) }).largest).toBeCloseTo(0.1, 2);
  // An adapter that changes nothing cannot be lost.
  expect(check("f32", { wanted, base: wanted, found: wanted }).fromBase).toBe(0);
});

test("what is wrong is an error", () => {
  const shuffled = wave((_, i) => 5 * Math.sin(((i * 7919) % 500) * 0.7));
  for (const type of ["f32", "bf16", "q8_0", "q4_0"] as const) {
    expect(() => check(type, { wanted, base, found: shuffled })).toThrow("gives other logits when it is loaded again");
    expect(() => check(type, { wanted, base, found: wave(() => Number.NaN) })).toThrow("gives other logits");
    const short = { ...wanted, logits: wanted.logits.map((logits) => logits.slice(1)) };
    expect(() => check(type, { wanted, base, found: short })).toThrow("gives other logits");
  }
  expect(() => check("f32", { wanted, base, found: noisy(0.1) })).toThrow("where f32 explains 0.10 % at most");
  // Of 4 bits much is rounding, but not that the adapter is gone.
  expect(() => check("q4_0", { wanted, base, found: base })).toThrow("answers like the model without the adapter");
  // One token that is wrong is not hidden by all the others.
  const one = { ...wanted, logprobs: [[-1, -9], [-3]] };
  expect(() => check("bf16", { wanted, base, found: one })).toThrow("the largest difference is 7.00");
});

test("the chat template of a model that learned rows puts a question as training did", () => {
  const prompt = promptFormat("base", 'Say "yes"\\no.\nPlease.');
  const template = new ChatTemplate(mergedChatTemplate(prompt, undefined)!, "test");
  const user = { role: "user", content: "15GB {} {{ x }}?" };
  const asked = promptOf({ input: user.content }, prompt);
  expect(template.render([user])).toBe(asked);
  const system = { role: "system", content: "Other." };
  expect(template.render([system, user])).toBe(promptOf({ instruction: "Other.", input: user.content }, prompt));
  const answered = [user, { role: "assistant", content: "Yes." }];
  expect(template.render([...answered, user])).toBe(`${asked}Yes.<|im_end|>\n${asked}`);
});
