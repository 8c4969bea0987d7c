import { afterAll, describe, expect, spyOn, test } from "bun:test";
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Generator } from "@tslm/tensor";
import { loadAdapter } from "../adapter.ts";
import type { LoraConfigInput } from "../config.ts";
import { CheckpointError } from "../errors.ts";
import { applyLora, type Lora, startLora } from "../lora.ts";
import { TinyModel } from "../testing.ts";
import {
  Checkpoints,
  type CheckpointsOptions,
  findCheckpoint,
  leftCheckpoint,
  type RunSettings,
} from "./checkpoint.ts";
import { dataFingerprint, modelFingerprint } from "./fingerprint.ts";
import type { TrainOptions } from "./options.ts";
import type { TrainingSequence } from "./pass.ts";
import type { TrainResult } from "./result.ts";
import { checkResumable } from "./resume.ts";
import { type TrainRun, train } from "./train.ts";

const root = await mkdtemp(join(tmpdir(), "checkpoints-"));
afterAll(() => rm(root, { recursive: true }));
let folders = 0;
const newFolder = (): string => join(root, String(folders++));

const full = (...tokens: number[]): TrainingSequence => ({ tokens, targets: [...tokens.slice(1), -1] });
const sequences = [full(1, 4, 2, 7, 3), full(5, 9, 10), full(2, 2, 6, 8), full(3, 10), full(7, 6, 5, 4)];
const validation = [full(1, 4, 2, 9), full(5, 9)];
const settings: RunSettings = { options: {}, base_model: "b", data: "d" };
const OPTIONS: TrainOptions = { epochs: 4, gradAccum: 2, lr: 2e-2, scheduler: "cosine", seed: 5, evalEvery: 2 };

interface Ended {
  result: TrainResult;
  weights: number[];
}

/** One process's part of a run: a new model and adapter, trained from the newest checkpoint if `resume`, else from the start. */
async function part(
  folder: string,
  run: Partial<TrainRun> = {},
  checkpoints: Partial<CheckpointsOptions> = {},
  resume = false,
  kind: Partial<LoraConfigInput> = {},
): Promise<Ended> {
  const model = new TinyModel();
  const config = { r: 2, lora_alpha: 4, lora_dropout: 0.5, target_modules: ["q_proj", "v_proj"] };
  const lora = await startLora(model, { ...config, ...kind }, new Generator(7));
  try {
    const resumed = resume ? (await findCheckpoint(folder)).checkpoint : undefined;
    const keeper = new Checkpoints({ folder, settings, saveEvery: 0, resumed, ...checkpoints });
    const all = { model, lora, sequences, validation, options: OPTIONS, keeper, resume: resumed?.state, ...run };
    const result = await train(all);
    return { result, weights: await weightsOf(lora) };
  } finally {
    lora.remove();
    model.dispose();
  }
}

async function weightsOf(lora: Lora): Promise<number[]> {
  return (await Promise.all(lora.parameters().map((t) => t.data()))).flatMap((values) => [...values]);
}

/** All that must not depend on an interruption: everything but times. */
const numbers = ({ result: { steps, best, stopped, step, tokens }, weights }: Ended) => ({
  steps: steps.map(({ seconds: _, ...rest }) => rest),
  ...{ best, stopped, step, tokens, weights },
});

/** A run that is interrupted at a step: when its `onStep` is called, or while its samples are asked. */
async function interrupt(
  folder: string,
  at: number,
  where: "onStep" | "isLearned",
  resume = false,
  kind: Partial<LoraConfigInput> = {},
): Promise<void> {
  const controller = new AbortController();
  const stop = (): never => {
    controller.abort(new Error("Ctrl-C"));
    throw controller.signal.reason;
  };
  let step = 0;
  const run: Partial<TrainRun> =
    where === "onStep"
      ? { onStep: (result) => (result.step === at ? controller.abort(new Error("Ctrl-C")) : undefined) }
      : { onStep: (result) => void (step = result.step), isLearned: () => (step >= at - 1 ? stop() : false) };
  await expect(part(folder, { ...run, signal: controller.signal }, {}, resume, kind)).rejects.toThrow("Ctrl-C");
}

const undisturbed = part(newFolder());

describe("a resumed run goes on instead of beginning again (unsloth-zoo #751), and ends bit for bit where the undisturbed one ends", () => {
  test("interrupted after any step", async () => {
    const expected = numbers(await undisturbed);
    expect(expected.steps.length).toBe(12);
    expect(expected.steps.filter((s) => s.validation_loss !== undefined).map((s) => s.step)).toEqual([
      2, 3, 4, 6, 8, 9, 10, 12,
    ]);
    for (let at = 1; at < 12; at++) {
      const folder = newFolder();
      await interrupt(folder, at, "onStep");
      expect(await readdir(folder)).toEqual([`step-${at}`]);
      const seen: number[] = [];
      const ended = await part(folder, { onStep: ({ step }) => void seen.push(step) }, {}, true);
      expect(seen).toEqual(Array.from({ length: 12 - at }, (_, i) => at + 1 + i));
      expect(numbers(ended)).toEqual(expected);
    }
  });

  test("interrupted between a step and its evaluation's end, again and again", async () => {
    const folder = newFolder();
    const expected = numbers(await undisturbed);
    let isFirst = true;
    for (const at of [2, 3, 4, 6, 10, 12]) {
      await interrupt(folder, at, "isLearned", !isFirst);
      isFirst = false;
      const { checkpoint } = await findCheckpoint(folder);
      expect([checkpoint.step, checkpoint.total, checkpoint.state.progress.pending]).toEqual([at, 12, true]);
    }
    expect(numbers(await part(folder, {}, {}, true))).toEqual(expected);
  });

  test("stopped early: the rest stays undone, and the best step's weights are the result", async () => {
    // At such a rate the validation loss soon rises.
    const options = { ...OPTIONS, lr: 0.3, scheduler: "constant" as const, earlyStop: 2 };
    const expected = numbers(await part(newFolder(), { options }));
    expect(expected).toMatchObject({ stopped: "early-stop", step: expected.best!.step });
    expect(expected.steps.length).toBeLessThan(12);
    const folder = newFolder();
    await part(folder, { options }, { saveEvery: 1 });
    expect(numbers(await part(folder, { options }, {}, true))).toEqual(expected);
    await rm(join(folder, `step-${expected.steps.length}`), { recursive: true });
    expect(numbers(await part(folder, { options }, {}, true))).toEqual(expected);
  });

  test.each([{ use_dora: true }, { init_lora_weights: "pissa" as const }, { init_lora_weights: "olora" as const }])(
    "whatever the kind of adapter: %p",
    async (kind) => {
      const half = newFolder();
      await interrupt(half, 7, "onStep", false, kind);
      const expected = await part(newFolder(), {}, {}, false, kind);
      expect(numbers(await part(half, {}, {}, true, kind))).toEqual(numbers(expected));
    },
  );

  test("stopped on request: the rest can be done", async () => {
    const folder = newFolder();
    const { result } = await part(folder, { onStep: ({ step }) => (step === 5 ? "stop" : undefined) });
    expect([result.stopped, result.steps.length]).toEqual(["asked", 5]);
    expect(numbers(await part(folder, {}, {}, true))).toEqual(numbers(await undisturbed));
  });

  test("with more epochs, where a step's rate does not depend on their number", async () => {
    const options = { ...OPTIONS, scheduler: "constant" as const };
    const folder = newFolder();
    await part(folder, { options: { ...options, epochs: 2 } }, { saveEvery: 4 });
    expect((await readdir(folder)).sort()).toEqual(["step-4", "step-6"]);
    expect(numbers(await part(folder, { options }, {}, true))).toEqual(numbers(await part(newFolder(), { options })));
  });
});

describe("checkpoints", () => {
  test("the last two are kept, each an adapter too; those of another run go when the first of this one is there", async () => {
    const folder = newFolder();
    const saved: number[] = [];
    await part(folder, {}, { saveEvery: 3, onSaved: (_, step) => void saved.push(step) });
    expect(saved).toEqual([3, 6, 9, 12]);
    expect((await readdir(folder)).sort()).toEqual(["step-12", "step-9"]);
    const model = new TinyModel();
    const lora = await loadAdapter(join(folder, "step-12"), model);
    const { checkpoint } = await findCheckpoint(folder);
    const key = [...lora.namedParameters()][0][0];
    expect(await lora.parameters()[0].bytes()).toEqual(checkpoint.state.bytes(`weight.${key}`)!);
    lora.remove();

    let during: string[] = [];
    await part(
      folder,
      { onStep: async ({ step }) => void (step === 4 && (during = await readdir(folder))) },
      { saveEvery: 5 },
    );
    expect(during.sort()).toEqual(["step-12", "step-9"]);
    expect((await readdir(folder)).sort()).toEqual(["step-10", "step-12"]);
    expect((await findCheckpoint(join(folder, "step-10"))).checkpoint.step).toBe(10);
  });

  test("without a number of steps: every minute, and never more than a fiftieth of the time", async () => {
    let now = 0;
    const clock = spyOn(performance, "now").mockImplementation(() => now);
    try {
      const saved: number[] = [];
      const folder = newFolder();
      const options = { ...OPTIONS, epochs: 8 };
      // A step takes 21 s, and the second save 5 s.
      await part(
        folder,
        { options, onStep: () => void (now += 21_000) },
        {
          saveEvery: undefined,
          extra: { toJSON: () => void (saved.length === 1 && (now += 5_000)) },
          onSaved: (_, step) => void saved.push(step),
        },
      );
      expect(saved).toEqual([3, 6, 18, 21, 24]);
    } finally {
      clock.mockRestore();
    }
  });

  test("one may be asked for", async () => {
    const folder = newFolder();
    const model = new TinyModel();
    const lora = applyLora(model, { r: 2, target_modules: ["q_proj"] }, new Generator(7));
    const keeper = new Checkpoints({ folder, settings, saveEvery: 0 });
    const onStep = ({ step }: { step: number }) => (step === 5 ? keeper.request() : undefined);
    await train({ model, lora, sequences, options: OPTIONS, keeper, onStep });
    expect(await readdir(folder)).toEqual(["step-5"]);
    lora.remove();
  });

  test("a broken one is told and the one before it taken", async () => {
    const folder = newFolder();
    await part(folder, {}, { saveEvery: 3 });
    const tensors = join(folder, "step-12", "training_state.safetensors");
    const bytes = await readFile(tensors);
    bytes[bytes.length - 1] ^= 1;
    await writeFile(tensors, bytes);
    const { checkpoint, broken } = await findCheckpoint(folder);
    expect(checkpoint.step).toBe(9);
    expect(broken).toEqual([`${tensors}: its content has changed since it was saved`]);
    await writeFile(join(folder, "step-9", "training_state.json"), '{"format": 1');
    const none = await findCheckpoint(folder).catch((e: unknown) => e);
    expect(none).toBeInstanceOf(CheckpointError);
    expect((none as Error).message).toMatch(/^.*: no checkpoint of it can be read: .*step-12.*; begin anew without/);
  });

  test("what an interrupted save or removal left is no checkpoint, and goes with the next save", async () => {
    const folder = newFolder();
    const dead = Bun.spawnSync(["true"]).pid;
    await mkdir(join(folder, `.saving-${dead}-x`), { recursive: true });
    await mkdir(join(folder, ".removed-y"));
    await expect(findCheckpoint(folder)).rejects.toThrow(
      "there is no checkpoint in it, so there is nothing to go on from",
    );
    expect(await leftCheckpoint(folder)).toBeUndefined();
    await part(folder, {}, { saveEvery: 12 });
    expect(await readdir(folder)).toEqual(["step-12"]);
  });

  test("a folder that vanished is made again", async () => {
    const folder = newFolder();
    const onStep = ({ step }: { step: number }) => (step === 7 ? rm(folder, { recursive: true }) : undefined);
    await part(folder, { onStep }, { saveEvery: 3 });
    expect((await readdir(folder)).sort()).toEqual(["step-12", "step-9"]);
  });

  test("one that cannot be saved ends the run; the last good one is still there", async () => {
    const folder = newFolder();
    let steps = 0;
    const extra = {
      toJSON(): string {
        if (steps > 4) throw Object.assign(new Error("no space left on device, write"), { code: "ENOSPC" });
        return "";
      },
    };
    const running = part(folder, { onStep: ({ step }) => void (steps = step) }, { saveEvery: 3, extra });
    await expect(running).rejects.toThrow(
      `${join(folder, "step-6")}: cannot be written: the disk is full; free some space`,
    );
    expect(await readdir(folder)).toEqual(["step-3"]);
    expect((await findCheckpoint(folder)).checkpoint.step).toBe(3);
  });
});

describe("what a run cannot go on with is refused by name", () => {
  const saved: RunSettings = {
    options: { lr: 1e-3, epochs: 3, scheduler: "constant", warmup: 0, rank: 8 },
    base_model: "a",
    data: "b",
  };
  const now = (options: object, rest: Partial<RunSettings> = {}): RunSettings => ({
    ...saved,
    options: { ...saved.options, ...options },
    ...rest,
  });
  const check = (from: RunSettings, to: RunSettings) => () =>
    checkResumable({ folder: "c", settings: from }, to, (option) => `--${option}`);

  test("settings", () => {
    expect(check(saved, now({}))).not.toThrow();
    expect(check(saved, now({ lr: 2e-3 }))).toThrow(
      "c cannot be gone on from: --lr is 0.002 now and was 0.001; leave it out, or begin anew",
    );
    expect(check(saved, now({ dora: true }))).toThrow("--dora is true now and was not set");
  });
  test("epochs, unless they are raised and no rate depends on them", () => {
    expect(check(saved, now({ epochs: 5 }))).not.toThrow();
    expect(check(saved, now({ epochs: 2 }))).toThrow("--epochs is 2 now and was 3; epochs can only be raised");
    const linear = now({ scheduler: "linear" });
    expect(check(linear, now({ scheduler: "linear", epochs: 5 }))).toThrow(
      '--epochs is 5 now and was 3; with the schedule "linear" every step\'s rate depends on the number of epochs',
    );
    const warm = now({ warmup: 0.1 });
    expect(check(warm, now({ warmup: 0.1, epochs: 5 }))).toThrow("with a warm-up of 0.1 every step's rate");
  });
  test("model and data", () => {
    expect(check(saved, now({}, { base_model: "x" }))).toThrow("the base model is not the one that the run began with");
    expect(check(saved, now({}, { data: "x" }))).toThrow("the training data is not the one");
    expect(check(saved, now({}, { validation: "x" }))).toThrow("the validation data is not the one");
  });

  test("fingerprints: by content, a single weight or token counts", async () => {
    const [a, b, other] = [new TinyModel(), new TinyModel(), new TinyModel({ seed: 2 })];
    const prints = await Promise.all([a, b, other].map((model) => modelFingerprint(model)));
    expect(prints[1]).toBe(prints[0]);
    expect(prints[2]).not.toBe(prints[0]);
    expect(dataFingerprint([...sequences])).toBe(dataFingerprint(sequences));
    expect(dataFingerprint([full(1, 4, 2, 7, 4), ...sequences.slice(1)])).not.toBe(dataFingerprint(sequences));
    expect(dataFingerprint(sequences.toReversed())).not.toBe(dataFingerprint(sequences));
  });

  test("tensors of another adapter", async () => {
    const folder = newFolder();
    await part(folder, {}, { saveEvery: 12 });
    const { checkpoint } = await findCheckpoint(folder);
    const resume = { ...checkpoint.state, bytes: () => undefined };
    await expect(part(newFolder(), { resume })).rejects.toThrow("the checkpoint has no tensor weight.base_model");
  });
});
