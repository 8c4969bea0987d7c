import { afterEach, describe, expect, test } from "bun:test";
import { memory, noGrad, resetPeakMemory, scope, type Tensor } from "@tslm/tensor";
import type { QwenModel } from "./model.ts";
import { parameterCount, parameterShapes } from "./parameters.ts";
import { ContextLengthError, nextTokens, passOf } from "./pass.ts";
import { ropeFrequencies } from "./rope.ts";
import { distance, livingMemory, plainForward, settledMemory, tinyConfig, tinyModel, weightsOf } from "./testing.ts";

const open: { dispose(): void }[] = [];
function own<T extends { dispose(): void }>(made: T): T {
  open.push(made);
  return made;
}
afterEach(() => {
  for (const made of open.splice(0)) made.dispose();
});

const ids = [3, 17, 42, 8, 8, 31, 0];

async function logitsOf(model: QwenModel, pass: Parameters<QwenModel["hidden"]>[0]): Promise<Float32Array> {
  const logits = noGrad(() => scope(() => model.logits(model.hidden(pass))));
  const values = (await logits.data()) as Float32Array;
  logits.dispose();
  return values;
}

describe("forward", () => {
  for (const [title, overrides] of [
    ["tied head", {}],
    ["own head", { tie_word_embeddings: false }],
    ["one key/value head", { num_key_value_heads: 1 }],
    ["as many key/value heads as heads", { num_key_value_heads: 4 }],
    ["other theta, eps and depth", { rope_theta: 1e6, rms_norm_eps: 1e-2, num_hidden_layers: 3 }],
  ] as const) {
    test(`equals plain loops: ${title}`, async () => {
      const config = tinyConfig(overrides);
      const model = own(tinyModel(config, 7));
      const plain = plainForward(config, await weightsOf(model), ids);
      expect(distance(await logitsOf(model, passOf([ids])), plain.logits.flat())).toBeLessThan(2e-5);
    });
  }

  test("shows every layer's residual stream to an observer", async () => {
    const model = own(tinyModel());
    const plain = plainForward(model.config, await weightsOf(model), ids);
    const seen: Tensor[] = [];
    noGrad(() => model.hidden(passOf([ids]), (x) => seen.push(own(x.clone().keep())))).dispose();
    expect(seen.length).toBe(model.config.numHiddenLayers + 1);
    for (let i = 0; i < seen.length; i++) {
      expect(distance(await seen[i].data(), plain.layers[i].flat())).toBeLessThan(2e-5);
    }
  });

  test("several sequences in one pass give exactly what each gives alone", async () => {
    const model = own(tinyModel());
    const sequences = [[1, 2, 3], [4], [9, 8, 7, 6, 5]];
    const together = await logitsOf(model, passOf(sequences));
    const alone: number[] = [];
    for (const sequence of sequences) alone.push(...(await logitsOf(model, passOf([sequence]))));
    expect(Array.from(together)).toEqual(alone);
  });

  test("frees everything but its result", async () => {
    const model = own(tinyModel());
    const before = await settledMemory();
    const hidden = noGrad(() => model.hidden(passOf([ids])));
    expect(memory().storages).toBe(before.storages + 1);
    hidden.dispose();
    expect(memory().bytes).toBe(before.bytes);
  });

  test("needs no more memory for more layers", () => {
    const peak = (layers: number): number => {
      const model = own(tinyModel(tinyConfig({ num_hidden_layers: layers })));
      const before = memory().bytes;
      resetPeakMemory();
      noGrad(() => model.hidden(passOf([ids]))).dispose();
      return memory().peakBytes - before;
    };
    expect(peak(5)).toBe(peak(2));
  });

  test("refuses what devices would trust", () => {
    const model = own(tinyModel());
    const hidden = (pass: Parameters<QwenModel["hidden"]>[0]) => () => model.hidden(pass);
    expect(hidden(passOf([[1, 50]]))).toThrow("token 50 of row 1 lies outside of the model's vocabulary of 50");
    expect(hidden(passOf([[-1]]))).toThrow("token -1 of row 0");
    expect(hidden(passOf([]))).toThrow("at least one token");
    expect(hidden({ ...passOf([[1, 2]]), positions: new Int32Array(1) })).toThrow("2 tokens but 1 positions");
    expect(hidden(passOf([new Array(65).fill(1)]))).toThrow(ContextLengthError);
    expect(hidden(passOf([[1]], [[50]]))).toThrow("target 50 of row 0");
    expect(() => passOf([[1, 2]], [[1]])).toThrow("sequence 0 has 2 tokens but 1 targets");
  });
});

describe("parameters", () => {
  test("have transformers' names and shapes", () => {
    const model = own(tinyModel(tinyConfig({ tie_word_embeddings: false })));
    const got = [...model.namedParameters()].map(([name, t]) => [name, t.shape]);
    expect(new Map(got as [string, readonly number[]][])).toEqual(parameterShapes(model.config));
    expect(got.length).toBe(2 * 12 + 3);
    expect(model.trainableParameters().length).toBe(got.length);
  });

  test("of Qwen2.5-0.5B are 494,032,768", () => {
    const config = tinyConfig({
      hidden_size: 896,
      intermediate_size: 4864,
      num_hidden_layers: 24,
      num_attention_heads: 14,
      num_key_value_heads: 2,
      head_dim: 64,
      vocab_size: 151936,
      eos_token_id: 151645,
    });
    expect(parameterCount(config)).toBe(494_032_768);
  });

  test("rotary frequencies are rounded step by step as PyTorch's", async () => {
    // 1.0 / (1e6 ** (torch.arange(0, 64, 2).float() / 64))
    const f = own(ropeFrequencies(tinyConfig({ head_dim: 64, rope_theta: 1e6 })));
    const values = await f.data();
    expect(values.length).toBe(32);
    expect(values[0]).toBe(1);
    expect(values[16]).toBe(Math.fround(1e-3));
    expect(values[31]).toBeCloseTo(1.5399265e-6, 12);
  });
});

describe("loss", () => {
  test("is the mean over rows with a target, others skipped", async () => {
    const model = own(tinyModel());
    const { logprobs } = plainForward(model.config, await weightsOf(model), ids);
    const targets = nextTokens(ids);
    targets[2] = -1;
    const loss = own(noGrad(() => scope(() => model.loss(passOf([ids], [targets])))));
    const rows = [0, 1, 3, 4, 5];
    const expected = -rows.reduce((sum, i) => sum + logprobs[i][ids[i + 1]], 0) / rows.length;
    expect(await loss.item()).toBeCloseTo(expected, 5);

    const scale = Float32Array.from(ids, (_, i) => i / 10);
    const weighted = own(noGrad(() => scope(() => model.loss(passOf([ids], [targets], scale)))));
    const sum = -rows.reduce((total, i) => total + (i / 10) * logprobs[i][ids[i + 1]], 0);
    expect(await weighted.item()).toBeCloseTo(sum, 5);

    const hidden = own(noGrad(() => model.hidden(passOf([ids]))));
    const each = await own(model.tokenLosses(hidden, targets)).data();
    expect(
      distance(
        each,
        ids.map((_, i) => (rows.includes(i) ? -logprobs[i][ids[i + 1]] : 0)),
      ),
    ).toBeLessThan(2e-5);
  });

  test("needs a target", () => {
    const model = own(tinyModel());
    expect(() => model.loss(passOf([[1, 2]], [[-1, -1]]))).toThrow("no row of the pass has a target");
    expect(() => model.loss(passOf([[1, 2]]))).toThrow("needs the pass's targets");
  });

  for (const tied of [true, false]) {
    test(`its gradient agrees with finite differences, ${tied ? "tied" : "own"} head`, async () => {
      const config = tinyConfig({ hidden_size: 8, intermediate_size: 6, head_dim: 4, num_attention_heads: 2, num_key_value_heads: 1, vocab_size: 12, eos_token_id: 1, tie_word_embeddings: tied }); // biome-ignore format: one line
      const model = own(tinyModel(config, 3, "f64"));
      const sequences = [
        [5, 3, 3, 11],
        [7, 2, 9],
      ];
      const pass = passOf(sequences, sequences.map(nextTokens));
      const loss = scope(() => model.loss(pass));
      loss.backward();
      loss.dispose();
      const evaluate = async (): Promise<number> => {
        const value = noGrad(() => scope(() => model.loss(pass)));
        const number = await value.item();
        value.dispose();
        return number;
      };
      for (const [name, t] of model.namedParameters()) {
        const gradient = await t.grad!.data();
        const values = (await t.data()).slice();
        for (const at of new Set([0, Math.floor(t.size / 2), Math.floor(t.size * 0.7), t.size - 1])) {
          const step = 1e-5;
          const shifted = async (by: number): Promise<number> => {
            const copy = Float64Array.from(values);
            copy[at] += by;
            t.device.write(t.storage, 0, new Uint8Array(copy.buffer));
            return evaluate();
          };
          const numeric = ((await shifted(step)) - (await shifted(-step))) / (2 * step);
          await shifted(0);
          // Positions' angles are exact in f64 here, so only the differences' own error is left.
          expect([name, at, Math.abs(numeric - gradient[at]) < 1e-7 + 1e-5 * Math.abs(numeric)]).toEqual([
            name,
            at,
            true,
          ]);
        }
      }
    });
  }

  test("recomputing layers gives the same gradients and keeps less", async () => {
    const gradients = async (recompute: boolean) => {
      const model = own(tinyModel());
      model.recompute = recompute;
      const before = memory().bytes;
      const loss = scope(() => model.loss(passOf([ids], [nextTokens(ids)])));
      const kept = memory().bytes - before;
      loss.backward();
      loss.dispose();
      const values: number[] = [];
      for (const t of model.parameters()) values.push(...(await t.grad!.data()));
      return { kept, values };
    };
    const plain = await gradients(false);
    const again = await gradients(true);
    expect(distance(plain.values, again.values)).toBeLessThan(1e-6);
    expect(again.kept).toBeLessThan(plain.kept / 2);
  });

  test("with nothing to train below, recomputing records nothing there", () => {
    const model = own(tinyModel());
    model.requiresGrad(false);
    model.recompute = true;
    const loss = own(scope(() => model.loss(passOf([ids], [nextTokens(ids)]))));
    expect(loss.requiresGrad).toBe(false);
  });

  test("a training step leaves no memory behind", async () => {
    const model = own(tinyModel());
    const step = async (): Promise<void> => {
      const loss = scope(() => model.loss(passOf([ids], [nextTokens(ids)])));
      loss.backward();
      await loss.item();
      loss.dispose();
      for (const t of model.parameters()) {
        t.grad?.dispose();
        t.grad = undefined;
      }
    };
    await step();
    const before = await settledMemory();
    for (let i = 0; i < 20; i++) await step();
    expect(livingMemory()).toEqual(before);
  });
});
