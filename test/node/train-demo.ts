/** Trains the demo model for a few steps in whatever runs this; prints the device and the losses as JSON. */
import { applyLora, promptFormat, train, trainingSequences } from "../../packages/lora/src/index.ts";
import { Qwen } from "../../packages/qwen/src/index.ts";
import { createDevice, Generator, setDefaultDevice } from "../../packages/tensor/src/index.ts";

const [folder] = process.argv.slice(2);
const device = await createDevice("cpu");
setDefaultDevice(device);
const qwen = await Qwen.load(folder);
const config = { r: 4, lora_alpha: 32, target_modules: ["q_proj", "v_proj"] };
const lora = applyLora(qwen.model, config, new Generator(0));
const { sequences } = trainingSequences(
  [
    { instruction: "回答关于飞跃云产品的问题", input: "免费空间有多大?", output: "15GB。" },
    { instruction: "解释安全规定", input: "机房可以带水进去吗?", output: "不可以。" },
  ],
  {
    prompt: promptFormat("demo"),
    encode: (text) => qwen.tokenizer.encode(text),
    endTokenId: qwen.tokenizer.tokenToId("<|im_end|>")!,
  },
);
const { steps } = await train({ model: qwen.model, lora, sequences, options: { epochs: 10, lr: 2e-3 } });
console.log(JSON.stringify({ device: device.info, losses: steps.map(({ loss }) => loss) }));
await device.dispose();
