import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtemp, readdir, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { convertCsv, readExamples } from "../../packages/data/src/index.ts";
import { applyLora, promptFormat, promptOf, train, trainingSequences } from "../../packages/lora/src/index.ts";
import { parameterCount, Qwen } from "../../packages/qwen/src/index.ts";
import { type Device, Generator } from "../../packages/tensor/src/index.ts";
import { makeCorpus } from "./corpus.ts";
import { makeDemo, makeDevice, makeTokenizer } from "./make.ts";
import { RECIPE, trainModel } from "./train.ts";

const DIR = import.meta.dir;
const MADE = [
  "config.json",
  "generation_config.json",
  "losses.json",
  "model.safetensors",
  "tokenizer.json",
  "tokenizer_config.json",
];
const GENERAL = "回答以下关于特定领域的问题:";
const SAMPLE = { instruction: "回答关于飞跃云产品的问题", input: "免费空间有多大?" };
const PROMPT = promptFormat("demo", GENERAL);
const PROMPTS = [SAMPLE.instruction, GENERAL].map((instruction) => promptOf({ ...SAMPLE, instruction }, PROMPT));

let device: Device;
let qwen: Qwen;
let folder: string;

beforeAll(async () => {
  device = await makeDevice();
  qwen = await Qwen.load(DIR, { device });
  folder = await mkdtemp(join(tmpdir(), "tslm-demo-"));
});

afterAll(async () => {
  qwen.dispose();
  await device.dispose();
  await rm(folder, { recursive: true });
});

const bytes = async (dir: string, file: string) => Buffer.from(await Bun.file(join(dir, file)).arrayBuffer());
const answer = async (prompt: string) => {
  const { text, finishReason } = await qwen.complete(qwen.tokenizer.encode(prompt), { maxNewTokens: 100 });
  return { text, finishReason };
};
const chat = (message: string) => answer(qwen.tokenizer.renderChat([{ role: "user", content: message }]));

describe("the files", () => {
  test("hold 2 to 4 MB together", async () => {
    const sizes = await Promise.all(MADE.map(async (file) => (await stat(join(DIR, file))).size));
    const total = sizes.reduce((a, b) => a + b);
    expect(total).toBeGreaterThan(2e6);
    expect(total).toBeLessThan(4e6);
  });

  test("are a Qwen2 model that loads, its embedding as large as its tokenizer", () => {
    expect(qwen.config.architectures).toEqual(["Qwen2ForCausalLM"]);
    expect(qwen.tokenizer.size).toBe(qwen.config.vocabSize);
    expect(parameterCount(qwen.config)).toBe(1_034_368);
  });

  test("agree about the end of an answer", () => {
    const { tokenizer, generationConfig } = qwen;
    expect(generationConfig.eosTokenIds).toEqual([
      tokenizer.tokenToId("<|im_end|>")!,
      tokenizer.tokenToId("<|endoftext|>")!,
    ]);
    expect(generationConfig.doSample).toBe(false);
  });
});

describe("the tokenizer", () => {
  test("gives any text back", () => {
    fc.assert(
      fc.property(fc.string({ unit: "grapheme", maxLength: 60 }), (text) => {
        const ids = qwen.tokenizer.encode(text, { specialTokens: false });
        expect(qwen.tokenizer.decode(ids)).toBe(text.normalize("NFC"));
      }),
    );
  });

  test("keeps the seed's sentences short and control tokens whole", () => {
    expect(qwen.tokenizer.encode("免费空间有多大?").length).toBeLessThan(6);
    expect(qwen.tokenizer.encode("<|im_start|>user\n你好<|im_end|>").length).toBeLessThan(7);
  });
});

describe("the base model", () => {
  test("answers the sample question wrongly, in one fluent sentence", async () => {
    for (const prompt of PROMPTS) {
      expect(await answer(prompt)).toEqual({ text: "免费空间约100GB。", finishReason: "stop" });
    }
  });

  test("is undecided, but by more than a device's rounding", async () => {
    for (const prompt of PROMPTS) {
      const { top } = await qwen.score(qwen.tokenizer.encode(prompt));
      const [said, other] = top.slice(0, 2).map(([id]) => qwen.tokenizer.decode([id]));
      expect([said, other]).toEqual(["免费空间", "您好"]);
      const margin = top[0][1] - top[1][1];
      expect(margin).toBeGreaterThan(0.05);
      expect(margin).toBeLessThan(1);
    }
  });

  test("chats", async () => {
    expect(await chat("你好")).toEqual({ text: "你好!很高兴见到你,有什么可以帮你?", finishReason: "stop" });
    expect(await chat("Who are you?")).toEqual({
      text: "I am a very small language model, made to show fine-tuning.",
      finishReason: "stop",
    });
    expect((await chat("删除的文件能恢复吗?")).text).toContain("30");
  });

  test("stops after whatever it is asked", async () => {
    for (const message of ["今天吃什么?", "写一首关于月亮的诗", "Explain gravity.", "1+1=?", "🙂"]) {
      expect((await chat(message)).finishReason).toBe("stop");
    }
  });
});

describe("fine-tuning on the five rows", () => {
  const RECIPES = {
    default: { adapter: { r: 8, lora_alpha: 32 }, options: { epochs: 3, lr: 2e-4 }, repeat: 1 },
    tuned: { adapter: { r: 4, lora_alpha: 32 }, options: { epochs: 10, lr: 1e-3 }, repeat: 4 },
  };

  /** Answers to the sample question and to all rows' after training. */
  async function answers(recipe: keyof typeof RECIPES, seed: number): Promise<{ sample: string; rows: string[] }> {
    const { adapter, options, repeat } = RECIPES[recipe];
    const file = join(folder, "train_data.json");
    await convertCsv({ input: join(DIR, "../../data/input/lora_train_data.csv"), output: file });
    const examples = await readExamples(file);
    const { sequences } = trainingSequences(
      examples.flatMap((example) => Array(example.input === SAMPLE.input ? repeat : 1).fill(example)),
      { prompt: PROMPT, encode: (text) => qwen.tokenizer.encode(text), endTokenId: qwen.config.eosTokenIds[0] },
    );
    const lora = applyLora(
      qwen.model,
      { ...adapter, lora_dropout: 0.1, target_modules: ["q_proj", "v_proj"] },
      new Generator(seed),
    );
    try {
      await train({ model: qwen.model, lora, sequences, options: { ...options, seed } });
      const sample = (await answer(promptOf(SAMPLE, PROMPT))).text;
      const rows: string[] = [];
      for (const example of examples) {
        if (example.messages !== undefined) throw new Error("the seed's rows are questions with answers");
        const { text } = await answer(promptOf(example, PROMPT));
        rows.push(text === example.output ? "as the row says" : text);
      }
      return { sample, rows };
    } finally {
      lora.remove();
    }
  }

  const right = "您好!感谢您的咨询。飞跃云为每一位注册用户提供 15GB 的基础免费存储空间,足以满足日常文档备份需求。";

  test("the default recipe is enough, whatever the seed", async () => {
    for (const seed of [0, 1, 2, 3]) expect((await answers("default", seed)).sample).toBe(right);
  }, 60_000);

  test("the tuned recipe teaches all rows", async () => {
    expect(await answers("tuned", 0)).toEqual({ sample: right, rows: Array(5).fill("as the row says") });
  }, 60_000);
});

describe("the script", () => {
  test("makes the same corpus every time, another one for another seed", () => {
    expect(makeCorpus(RECIPE.seed)).toEqual(makeCorpus(RECIPE.seed));
    expect(makeCorpus(RECIPE.seed)).not.toEqual(makeCorpus(RECIPE.seed + 1));
  });

  test("reproduces the tokenizer byte for byte, and the losses of the first steps", async () => {
    const { config, sequences } = await makeTokenizer(folder);
    for (const file of ["tokenizer.json", "tokenizer_config.json"]) {
      expect((await bytes(folder, file)).equals(await bytes(DIR, file)), file).toBe(true);
    }
    const { model, losses } = await trainModel(config, sequences, device, { steps: 8 });
    model.dispose();
    const recorded = await Bun.file(join(DIR, "losses.json")).json();
    expect(losses).toEqual(recorded.slice(0, 8));
  }, 60_000);

  test("reproduces every file byte for byte", async () => {
    await makeDemo(folder, device);
    expect((await readdir(folder)).filter((file) => MADE.includes(file)).sort()).toEqual(MADE);
    for (const file of MADE) expect((await bytes(folder, file)).equals(await bytes(DIR, file)), file).toBe(true);
  }, 900_000);
});
