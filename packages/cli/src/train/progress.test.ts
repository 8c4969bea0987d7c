import { expect, test } from "bun:test";
import { PassThrough } from "node:stream";
import type { StepEvent } from "@tslm/watch";
import { Terminal } from "../terminal.ts";
import { describeStep, TrainingProgress } from "./progress.ts";

const EVENT: StepEvent = {
  ...{ event: "step", time: "2026-01-01T00:00:00.000Z", step: 3, epoch: 2, loss: 1.23456, smoothed_loss: 1.5 },
  ...{ token_accuracy: 0.6249, grad_norm: 0.98765, lr: 2e-4, tokens: 100, seconds: 2 },
  ...{ tokens_per_second: 75.84, memory_bytes: 1_640_000_000 },
};

test("a step in a line", () => {
  expect(describeStep(EVENT, 3)).toBe(
    "epoch 2/3 · loss 1.235 (smoothed 1.500) · accuracy 62% · gradient 0.99 · rate 2.0e-4 · 76 tokens/s · 1.6 GB",
  );
  expect(describeStep({ ...EVENT, token_accuracy: undefined }, 3)).not.toContain("accuracy");
});

test("plain lines where there is no screen", async () => {
  const [stdout, stderr] = [new PassThrough(), new PassThrough()];
  const progress = new TrainingProgress(new Terminal({ stdout, stderr }, {}), 3);
  progress.update(EVENT, 4);
  expect(stderr.read()).toBeNull(); // nothing is said of what is quick
  await Bun.sleep(2010);
  progress.update(EVENT, 4);
  progress.update({ ...EVENT, step: 4 }, 4); // a line at most every ten seconds
  progress.stop();
  const said = String(stderr.read());
  expect(said).toStartWith(`Training  75% · ${describeStep(EVENT, 3)} · `);
  expect(said).toMatch(/^[^\n]+ · \d+ s left\n$/);
});
