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
  "OLoRA, saved as a plain adapter": {
    r: 4,
    lora_alpha: 8,
    target_modules: ["q_proj", "v_proj"],
    init_lora_weights: "olora",
  },
};

async function peftLogits(adapter: string, prompts: number[][]): Promise<{ targets: string[]; logits: number[][] }> {
  const script = join(import.meta.dir, "support", "peft_logits.py");
  const env = { ...process.env, HF_HUB_OFFLINE: "1", TRANSFORMERS_VERBOSITY: "error" };
  const child = Bun.spawn([python!, script, weights!, adapter], {
    stdin: new Blob([JSON.stringify(prompts)]),
    stdout: "pipe",
    stderr: "pipe",
    env,
  });
  const [out, err] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
  if ((await child.exited) !== 0) throw new Error(`PEFT refused the adapter:\n${err.slice(-2000)}`);
  return JSON.parse(out);
}

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
        const furthest = (a: ArrayLike<number>, b: ArrayLike<number>): number =>
          Array.from(a).reduce((most, x, i) => Math.max(most, Math.abs(x - b[i])), 0);
        expect(furthest(ours.logits, logits[0])).toBeLessThan(2e-3);
        // The adapter does something, so that the comparison means something.
        expect(furthest(ours.logits, base.logits)).toBeGreaterThan(1);
      } finally {
        lora.remove();
      }
    }, 900_000);
  }
});
