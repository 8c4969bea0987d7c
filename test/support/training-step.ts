import { applyLora, train } from "../../packages/lora/src/index.ts";
import { parseModelConfig, QwenModel } from "../../packages/qwen/src/index.ts";
import { createDevice, type Device, Generator, setDefaultDevice } from "../../packages/tensor/src/index.ts";

/** What two steps of training did. */
export interface StepNumbers {
  readonly isa: string | undefined;
  readonly losses: number[];
  readonly gradNorms: number[];
  /** The trained weights, one layer after another. */
  readonly weights: number[];
}

/** Two steps of LoRA with dropout on a random model of the Qwen2 architecture, the same on every device to rounding. */
export async function trainingSteps(device: Device): Promise<StepNumbers> {
  setDefaultDevice(device);
  const config = parseModelConfig({
    model_type: "qwen2",
    hidden_size: 64,
    intermediate_size: 100,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    vocab_size: 300,
    max_position_embeddings: 128,
    rope_theta: 10000,
    tie_word_embeddings: true,
  });
  const model = QwenModel.init(config, new Generator(1), { std: 0.1 });
  const targets = { r: 4, lora_alpha: 16, lora_dropout: 0.1, target_modules: ["q_proj", "v_proj"] };
  const lora = applyLora(model, targets, new Generator(2));
  const sequences = [21, 7, 13, 34].map((length, i) => {
    const tokens = Array.from({ length }, (_, t) => (97 * t * t + 31 * i + 5) % 300);
    return { tokens, targets: [...tokens.slice(1), -1] };
  });
  const options = { epochs: 2, lr: 1e-3, batch: 2, gradAccum: 2, shuffle: false, seed: 3 };
  const { steps } = await train({ model, lora, sequences, options });
  const weights = await Promise.all(lora.parameters().map(async (p) => [...(await p.data())]));
  lora.remove();
  model.dispose();
  return {
    isa: device.info.isa,
    losses: steps.map((step) => step.loss),
    gradNorms: steps.map((step) => step.grad_norm),
    weights: weights.flat(),
  };
}

if (import.meta.main) console.log(JSON.stringify(await trainingSteps(await createDevice("cpu", { threads: 2 }))));
