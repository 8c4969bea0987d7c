/**
 * PEFT loads the adapters that we train and computes the same logits, in f32 on real weights. Needs the peers'
 * Python environment ($QWEN_PEERS) and the weights; says so when absent.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type LoraConfigInput, saveAdapter, startLora, train } from "../packages/lora/src/index.ts";
import { Qwen } from "../packages/qwen/src/index.ts";
import { createDevice, type Device, Generator } from "../packages/tensor/src/index.ts";
import { findPython, findWeights, titleOf } from "./support/golden.ts";

const python = findPython();
const weights = findWeights();
const { title, skip } = titleOf("PEFT loads our adapters", { "Python with PEFT": python, "real weights": weights });

const configs: Record<string, LoraConfigInput> = {
  "q and v": { r: 8, lora_alpha: 32, lora_dropout: 0.1, target_modules: ["q_proj", "v_proj"] },
  "all linear layers, rsLoRA, ranks and alphas of single layers": {
    r: 4,
    lora_alpha: 8,
    target_modules: "all-linear",
    use_rslora: true,
    rank_pattern: { "layers.3.self_attn.k_proj": 2, down_proj: 1 },
    alpha_pattern: { o_proj: 16 },
  },
  DoRA: { r: 4, lora_alpha: 8, target_modules: ["q_proj", "v_proj", "down_proj"], use_dora: true },
  "PiSSA, saved as a plain adapter": {
    r: 4,
    lora_alpha: 8,
    target_modules: ["q_proj", "v_proj"],
    init_lora_weights: "pissa",
  },
};

/** Runs a script of PEFT's on the real weights; JSON goes in and comes out. */
async function peft<Result>(script: string, args: readonly string[], input: unknown): Promise<Result> {
  const env = { ...process.env, HF_HUB_OFFLINE: "1", TRANSFORMERS_VERBOSITY: "error" };
  const child = Bun.spawn([python!, join(import.meta.dir, "support", script), weights!, ...args], {
    stdin: new Blob([JSON.stringify(input)]),
    stdout: "pipe",
    stderr: "pipe",
    env,
  });
  const [out, err] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
  if ((await child.exited) !== 0) throw new Error(`PEFT refused it:\n${err.slice(-2000)}`);
  return JSON.parse(out);
}

const peftLogits = (adapter: string, prompts: number[][]): Promise<{ targets: string[]; logits: number[][] }> =>
  peft("peft_logits.py", [adapter], prompts);

/** What peft_train.py tells of a run. */
interface PeftRun {
  /** Before the first step, after the first sequence. */
  logits: number[];
  losses: number[];
  norms: number[];
  /** L2 norms of the first step, by key. */
  gradients: Record<string, number>;
}

const furthest = (a: ArrayLike<number>, b: ArrayLike<number>): number =>
  Array.from(a).reduce((most, x, i) => Math.max(most, Math.abs(x - b[i])), 0);

describe.skipIf(skip)(title, () => {
  let device: Device;
  let qwen: Qwen;
  let folder: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "peft-"));
    device = await createDevice("cpu");
    qwen = await Qwen.load(weights!, { device });
  });
  afterAll(async () => {
    qwen?.dispose();
    await device?.dispose();
    await rm(folder, { recursive: true, force: true });
  });

  for (const [name, config] of Object.entries(configs)) {
    test(`${name}: logits within 2e-3`, async () => {
      const { tokenizer, model } = qwen;
      const prompt = tokenizer.encode("免费空间有多大?");
      const tokens = tokenizer.encode("免费空间有多大?飞跃云提供 15GB 免费空间。<|im_end|>");
      const base = await qwen.score(prompt);
      const lora = await startLora(model, config, new Generator(1));
      try {
        const sequences = [{ tokens, targets: [...tokens.slice(1), -1] }];
        await train({ model, lora, sequences, options: { epochs: 3, lr: 2e-3 } });
        await saveAdapter(folder, lora, { baseModel: "Qwen/Qwen2.5-Coder-0.5B-Instruct" });
        const ours = await qwen.score(prompt);
        const { targets, logits } = await peftLogits(folder, [prompt]);
        expect(targets).toEqual([...lora.layers.keys()].sort());
        expect(furthest(ours.logits, logits[0])).toBeLessThan(2e-3);
        // The adapter does something, so that the comparison means something.
        expect(furthest(ours.logits, base.logits)).toBeGreaterThan(1);
      } finally {
        lora.remove();
      }
    }, 900_000);
  }

  test("DoRA, OLoRA and PiSSA begin and train as with PEFT: logits, gradients, losses", async () => {
    const { tokenizer, model } = qwen;
    const texts = ["免费空间有多大?飞跃云提供 15GB 免费空间。<|im_end|>", "怎么退款?请联系客服。<|im_end|>"];
    const ids = texts.map((text) => tokenizer.encode(text));
    const sequences = ids.map((tokens) => ({ tokens, targets: [...tokens.slice(1), -1] }));
    const [lr, steps] = [1e-3, 3];
    const common = { r: 4, lora_alpha: 8, target_modules: ["q_proj", "v_proj"] };
    // A few layers each, so that PyTorch's whole singular value decompositions take seconds.
    const kinds: [string, LoraConfigInput][] = [
      ["DoRA", { ...common, use_dora: true }],
      ["OLoRA", { ...common, layers_to_transform: [0, 11, 23], init_lora_weights: "olora" }],
      ["PiSSA", { ...common, layers_to_transform: [1, 12], init_lora_weights: "pissa" }],
    ];
    const runs: object[] = [];
    const ours: PeftRun[] = [];
    for (const [name, config] of kinds) {
      using lora = await startLora(model, config, new Generator(1));
      const adapter = config.use_dora ? join(folder, name) : null;
      if (adapter) {
        // Trained a little, so that B is not zero and every gradient counts.
        await train({ model, lora, sequences, options: { epochs: 3, lr } });
        await saveAdapter(adapter, lora);
      }
      runs.push({ config, adapter, sequences: ids, lr, steps });
      const { logits } = await qwen.score(ids[0]);
      const options = { epochs: steps, lr, batch: 2, gradAccum: 1, shuffle: false };
      const result = await train({ model, lora, sequences, options });
      ours.push({
        logits: [...logits],
        losses: result.steps.map(({ loss }) => loss),
        norms: result.steps.map(({ grad_norm }) => grad_norm),
        gradients: result.steps[0].first_grad_norms!,
      });
    }
    // OLoRA changes PEFT's base, and unloading leaves it so: what is left of the weights is another model.
    const theirs = [
      ...(await peft<PeftRun[]>("peft_train.py", [], runs.slice(0, 2))),
      ...(await peft<PeftRun[]>("peft_train.py", [], runs.slice(2))),
    ];
    const ratio = (a: readonly number[], b: readonly number[]) =>
      furthest(
        a.map((x, i) => x / b[i]),
        b.map(() => 1),
      );
    for (const [i, their] of theirs.entries()) {
      expect(furthest(ours[i].logits, their.logits)).toBeLessThan(2e-3);
      expect(ratio(ours[i].losses, their.losses)).toBeLessThan(1e-3);
      // AdamW's first steps are as large for a tiny gradient as for a large one, so later norms tell of rounding.
      expect(ratio(ours[i].norms.slice(0, 1), their.norms.slice(0, 1))).toBeLessThan(1e-3);
      const keys = Object.keys(their.gradients).sort();
      expect(Object.keys(ours[i].gradients).sort()).toEqual(keys);
      expect(
        ratio(
          keys.map((key) => ours[i].gradients[key]),
          keys.map((key) => their.gradients[key]),
        ),
      ).toBeLessThan(1e-2);
    }
  }, 900_000);
});
