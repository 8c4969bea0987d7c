import { describe, expect, test } from "bun:test";
import type { Diagnosis } from "@tslm/lora";
import { NOTHING_WRITTEN } from "../run.ts";
import { Terminal } from "../terminal.ts";
import { flagsOf, isBetter, scoreOf, withChanges } from "./fix.ts";
import { type TrainCommandOptions, trainCommand } from "./options.ts";

const of = (verdict: Diagnosis["verdict"], answers: string[], loss: number) =>
  scoreOf(
    { verdict, reasons: [], advice: [], changes: {} },
    answers.map((after) => ({ prompt: "多大?", expected: "15GB", before: "", after })),
    loss,
  );

test("the best of several tries: by verdict, then answers, then loss; of equals the first stays", () => {
  const ranked = [
    of("learned", ["15GB"], 0.5),
    of("underfitting", ["15GB", "10GB"], 2),
    of("underfitting", ["10GB", "10GB"], 1),
    of("underfitting", ["10GB", "10GB"], 3),
    of("collapse", ["10GB", "15GB"], 0.1),
  ];
  for (const [i, score] of ranked.entries()) {
    expect(ranked.map((other) => isBetter(score, other))).toEqual(ranked.map((_, j) => i < j));
    expect(isBetter(score, undefined)).toBe(true);
  }
});

describe("the changes of a diagnosis", () => {
  const command = trainCommand({
    signal: new AbortController().signal,
    terminal: new Terminal(),
    kept: NOTHING_WRITTEN,
    whole: (work) => work(),
  });
  const options = { lr: 0.1, recipe: "default", repeat: [{ text: "a", times: 2 }] } as unknown as TrainCommandOptions;

  test("become options as the command line would make them, repetitions beside those there are", () => {
    const changes = { recipe: "tuned", lr: 1e-3, "max-length": 700, repeat: ["15GB=4"] } as const;
    expect(withChanges(command, options, { ...changes, repeat: [...changes.repeat] })).toEqual({
      lr: 1e-3,
      recipe: "tuned",
      maxLength: 700,
      repeat: [
        { text: "a", times: 2 },
        { text: "15GB", times: 4 },
      ],
    } as never);
  });

  test("that change nothing are none", () => {
    expect(withChanges(command, options, { lr: 0.1 })).toBeUndefined();
    expect(withChanges(command, options, {})).toBeUndefined();
  });

  test("are told as flags", () => {
    expect(flagsOf({ lr: 1e-3, repeat: ["15GB=4", "a b=2"] })).toBe('--lr 0.001 --repeat "15GB=4" --repeat "a b=2"');
  });
});
