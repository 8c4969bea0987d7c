import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { cp, mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { CAN_MOUNT, command, ROOT, start, temporaryFolder, tinyDisk } from "../support/process.ts";
import { REAL_MODEL } from "../support/real-model.ts";
import { writeTinyModel } from "../support/tiny-model.ts";

// Each test starts processes, on machines that may be slow and busy.
setDefaultTimeout(120_000);

const FILES = ["README.md", "adapter_config.json", "adapter_model.safetensors", "prompt.json", "training.json"];
const SEED_DATA = join(ROOT, "data/input/lora_train_data.csv");
const SAMPLE = "### Instruction:\n回答关于飞跃云产品的问题\n\n### Input:\n免费空间有多大?\n\n### Response:\n";

interface Result {
  model: { name: string; source: string; parameters: number; trainable: number };
  data: { examples: number; sequences: number; tokens: number };
  steps: {
    step: number;
    epoch: number;
    loss: number;
    grad_norm: number;
    lr: number;
    tokens: number;
    seconds: number;
    first_grad_norms?: Record<string, number>;
  }[];
  tokens_per_second: number;
  peak_rss_bytes: number;
  device: { name: string; isa: string; threads: number };
  adapter: string;
  samples: { prompt: string; before: string; after: string }[];
  diagnosis: { verdict: string; reasons: string[]; advice: string[] };
}

describe("train", () => {
  /** A folder with the program's data in it, and two models of different width. */
  let home: Awaited<ReturnType<typeof temporaryFolder>>;
  let [model, other, rows] = ["", "", ""];
  beforeAll(async () => {
    home = await temporaryFolder();
    [model, other, rows] = ["tiny", "other", "rows.jsonl"].map((name) => join(home.path, name));
    await writeTinyModel(model);
    await writeTinyModel(other, { hidden: 48 });
    await mkdir(join(home.path, "data/input"), { recursive: true });
    await cp(SEED_DATA, join(home.path, "data/input/lora_train_data.csv"));
    const examples = ["one", "two", "three"].map((input) => ({ instruction: "Say it.", input, output: `${input}!` }));
    await writeFile(rows, examples.map((example) => JSON.stringify(example)).join("\n"));
  });
  afterAll(() => home[Symbol.asyncDispose]());

  const train = (...args: string[]) => command("train", ["--model", model, ...args], { cwd: home.path });
  async function trainJson(...args: string[]): Promise<Result> {
    const { status, stdout, stderr } = await train("--json", ...args);
    if (status !== 0) throw new Error(stderr);
    expect(stdout.trim().split("\n")).toHaveLength(1);
    return JSON.parse(stdout);
  }

  test("the whole job: CSV, Alpaca JSON, adapter, the question before and after", async () => {
    const result = await trainJson();
    expect(result.model).toEqual({ name: model, source: "folder", parameters: expect.any(Number), trainable: 1792 });
    expect(result.data).toMatchObject({ examples: 5, sequences: 5 });
    expect(result.steps).toHaveLength(6);
    expect(result.steps.map(({ step, epoch }) => [step, epoch])).toEqual([
      [1, 1],
      [2, 1],
      [3, 2],
      [4, 2],
      [5, 3],
      [6, 3],
    ]);
    result.steps.forEach(({ lr }, i) => {
      expect(lr).toBeCloseTo(2e-4 * (1 - i / 6), 10);
    });
    for (const { loss, grad_norm, tokens } of result.steps) {
      expect(loss).toBeGreaterThan(0);
      expect(grad_norm).toBeGreaterThan(0);
      expect(tokens).toBeGreaterThan(0);
    }
    expect(Object.keys(result.steps[0].first_grad_norms!)).toContain(
      "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
    );
    expect(result.steps[1].first_grad_norms).toBeUndefined();
    const entropy = { before: expect.any(Number), after: expect.any(Number) };
    expect(result.samples as unknown[]).toEqual([
      { prompt: SAMPLE, before: expect.any(String), after: expect.any(String), entropy },
    ]);
    expect(result.diagnosis.verdict).toBe("underfitting");
    expect(result.peak_rss_bytes).toBeGreaterThan(1e7);

    expect(JSON.parse(await readFile(join(home.path, "data/output/train_data.json"), "utf8"))).toHaveLength(5);
    expect(result.adapter).toBe(join(home.path, "model/lora_adapter"));
    expect((await readdir(result.adapter)).sort()).toEqual(FILES);
    const json = async (file: string) => JSON.parse(await readFile(join(result.adapter, file), "utf8"));
    expect(await json("adapter_config.json")).toMatchObject({
      r: 8,
      lora_alpha: 32,
      lora_dropout: 0.1,
      target_modules: ["q_proj", "v_proj"],
      base_model_name_or_path: model,
    });
    expect(await json("prompt.json")).toMatchObject({
      instruction: "回答以下关于特定领域的问题:",
      end_token: "<|im_end|>",
    });
    expect(await json("training.json")).toMatchObject({
      data: { file: "data/input/lora_train_data.csv", examples: 5 },
      options: { recipe: "default", epochs: 3, lr: 2e-4, "grad-accum": 4, seed: 0 },
    });
  });

  test("for people: a table, what it means, what to do, how to go on", async () => {
    const { status, stdout, stderr } = await train("--data", rows, "--out", join(home.path, "people"));
    expect(status).toBe(0);
    expect(stdout).toMatch(/Question.*Before.*After/);
    expect(stdout).not.toContain("\u001b");
    expect(stderr).toContain("trainable params: 1,792 || all params: ");
    expect(stderr).toContain("Not learned yet (underfitting).");
    expect(stderr).toContain("--recipe tuned");
    expect(stderr).toContain(`bun run ask one --adapter ${join(home.path, "people")}`);
  });

  test("the same seed gives the same adapter, byte for byte; another seed another", async () => {
    const run = async (name: string, seed: string) => {
      const out = join(home.path, name);
      await trainJson("--data", rows, "--out", out, "--seed", seed, "--epochs", "2");
      return readFile(join(out, "adapter_model.safetensors"));
    };
    const [first, again, different] = [await run("s1", "7"), await run("s2", "7"), await run("s3", "8")];
    expect(again.equals(first)).toBe(true);
    expect(different.equals(first)).toBe(false);
  });

  test("--recipe tuned, with what the command line says instead", async () => {
    const out = join(home.path, "tuned");
    const result = await trainJson("--recipe", "tuned", "--epochs", "2", "--max-length", "64", "--out", out);
    expect(result.data.sequences).toBe(8);
    expect(result.steps).toHaveLength(4);
    expect(result.steps[0].lr).toBe(1e-3);
    expect(JSON.parse(await readFile(join(out, "adapter_config.json"), "utf8"))).toMatchObject({
      r: 4,
      lora_alpha: 32,
    });
  });

  test("--repeat, --loss completion, --targets all, --no-shuffle", async () => {
    const out = join(home.path, "options");
    const options = ["--data", rows, "--out", out, "--epochs", "1", "--no-shuffle", "--grad-accum", "1"];
    const full = await trainJson(...options);
    const result = await trainJson(...options, "--repeat", "two=3", "--loss", "completion", "--targets", "all");
    expect(result.data).toMatchObject({ examples: 3, sequences: 5 });
    const lengths = result.steps.map(({ tokens }) => tokens);
    expect(new Set(lengths.slice(1, 4)).size).toBe(1);
    expect(result.model.trainable).toBeGreaterThan(full.model.trainable);
    expect(result.steps[0].loss).not.toBeCloseTo(full.steps[0].loss, 3);
    const { status, stderr } = await train("--data", rows, "--repeat", "nothing=3");
    expect(stderr).toContain(`--repeat: no row's input or output holds "nothing"; correct the text`);
    expect(status).toBe(1);
  });

  test("--init-adapter goes on from an adapter", async () => {
    const [first, second] = [join(home.path, "first"), join(home.path, "second")];
    const options = ["--data", rows, "--lr", "1e-2", "--dropout", "0", "--epochs", "8"];
    const before = await trainJson(...options, "--rank", "2", "--out", first);
    const after = await trainJson("--data", rows, "--init-adapter", first, "--epochs", "1", "--out", second);
    expect(after.steps[0].loss).toBeLessThan(before.steps[0].loss);
    expect(after.samples[0].before).toBe(before.samples[0].after);
    expect(JSON.parse(await readFile(join(second, "adapter_config.json"), "utf8")).r).toBe(2);
  });

  test("says when sequences are cut", async () => {
    const { status, stderr } = await train("--data", rows, "--max-length", "60", "--out", join(home.path, "cut"));
    expect(status).toBe(0);
    expect(stderr).toMatch(/warning: \d of 3 sequences are longer than 60 tokens \(up to \d+\) and were cut/);
  });

  describe("bad input: one sentence, status 1, no adapter", () => {
    async function fails(args: string[], sentence: string | RegExp, cwd = home.path): Promise<void> {
      const out = join(home.path, "never");
      const all = ["--model", model, "--out", out, ...args];
      const { status, stdout, stderr } = await command("train", all, { cwd });
      const said = stderr.split("\n").filter((line) => line.startsWith("error: "));
      expect(said).toHaveLength(1);
      if (typeof sentence === "string") expect(said[0]).toContain(sentence);
      else expect(said[0]).toMatch(sentence);
      expect(status).toBe(1);
      expect(stdout).toBe("");
      expect(stderr).not.toMatch(/\n\s+at /);
      expect(await Bun.file(join(out, "adapter_config.json")).exists()).toBe(false);
    }
    const write = async (name: string, content: string | Uint8Array): Promise<string> => {
      const file = join(home.path, name);
      await writeFile(file, content);
      return file;
    };

    test("no data", async () => {
      await using empty = await temporaryFolder();
      await fails([], "data/input/lora_train_data.csv: cannot be read: there is no such file", empty.path);
      await fails(["--data", await write("empty.csv", "")], "the file is empty");
      await fails(["--data", await write("head.csv", "input,output\n")], "head.csv");
      await fails(["--data", await write("list.json", "[]")], "list.json");
      await fails(["--data", await write("half.json", '[{"instruction": "a", "inp')], "half.json, line 1");
      await fails(
        ["--data", await write("field.jsonl", '{"instruction":"a","input":1,"output":"b"}')],
        'field "input"',
      );
    });

    test("no model", async () => {
      await fails(["--model", home.path], "is a folder without config.json; give the folder of a model");
      await fails(["--model", "no such thing"], 'there is no folder "no such thing"');
    });

    test("a broken model", async () => {
      const copy = async (name: string, file: string, change: (bytes: Buffer) => Uint8Array): Promise<string> => {
        const dir = join(home.path, name);
        await cp(model, dir, { recursive: true });
        await writeFile(join(dir, file), change(await readFile(join(dir, file))));
        return dir;
      };
      const cut = await copy("cut", "model.safetensors", (bytes) => bytes.subarray(0, bytes.length - 100));
      await fails(["--model", cut], "model.safetensors");
      const header = await copy("header", "model.safetensors", (bytes) => {
        bytes.writeBigUInt64LE(1n << 60n, 0);
        return bytes;
      });
      await fails(["--model", header], "model.safetensors");
      const noJson = await copy("tokenizer", "tokenizer.json", (bytes) => bytes.subarray(0, 500));
      await fails(["--model", noJson], "tokenizer.json: is not valid JSON");
      const config = await copy("config", "config.json", () => Buffer.from('{"model_type": "llama"}'));
      await fails(["--model", config], 'config.json: model_type: must be "qwen2"');
      await rm(join(cut, "model.safetensors"));
      await fails(["--model", cut], "model.safetensors");
    });

    test("an adapter of another model, or none", async () => {
      const out = join(home.path, "for-other");
      const made = await command("train", ["--model", other, "--data", rows, "--out", out, "--epochs", "1"]);
      expect(made.status).toBe(0);
      await fails(
        ["--data", rows, "--init-adapter", out],
        /the adapter does not fit this model .*\[8,48\], here it must be \[8,32\]/,
      );
      await fails(["--data", rows, "--init-adapter", model], "adapter_config.json: there is no such file");
    });

    test("a layer that the model lacks", () =>
      fails(
        ["--data", rows, "--targets", "q_proj,c_attn"],
        "no layer is called c_attn; the linear layers of this model are q_proj",
      ));

    test("a file where the adapter's folder should be", async () => {
      const { status, stderr } = await train("--data", rows, "--out", rows);
      expect(stderr).toBe(`error: ${rows} is a file; --out needs the path of a folder\n`);
      expect(status).toBe(1);
    });

    test("a rate that makes it diverge, told as what it is", async () => {
      await fails(
        ["--data", rows, "--lr", "1e30", "--clip", "0", "--epochs", "20"],
        /training diverged: .* take a lower learning rate/,
      );
    });

    test.skipIf(!CAN_MOUNT)("a full disk (mounted by root)", async () => {
      await using disk = await tinyDisk(16);
      const out = join(disk.path, "adapter");
      const { status, stderr } = await train("--data", rows, "--out", out, "--rank", "64", "--epochs", "1");
      const problem = "cannot be written: the disk is full; free some space or choose another place";
      expect(stderr).toContain(`error: ${out}: ${problem}\n`);
      expect(status).toBe(1);
      expect(await readdir(out)).toEqual([]);
    });
  });

  describe("Ctrl-C", () => {
    const LONG = ["--epochs", "100000", "--lr", "1e-6"];

    test("in the middle of training: status 130, no adapter, a checkpoint to go on from", async () => {
      const out = join(home.path, "interrupted");
      const running = start("train", ["--model", model, "--data", rows, "--out", out, ...LONG, "--json"]);
      await running.printed("Training ");
      running.process.kill("SIGINT");
      const { status, stdout, stderr } = await running.ended();
      expect(status).toBe(130);
      expect(stdout).toBe("");
      expect(stderr).toContain("Stopping; press Ctrl-C again to end at once.");
      const kept = `Interrupted. No adapter was written; what ${out} held before is unchanged. Step `;
      expect(stderr).toContain(kept);
      expect(stderr).toEndWith(` Go on with:  bun run train --resume ${out}\n`);
      expect(await readdir(out)).toEqual(["checkpoints"]);
      expect(await readdir(join(out, "checkpoints"))).toEqual(
        [/Step (\d+) of 100000 is saved/.exec(stderr)![1]].map((n) => `step-${n}`),
      );
    });

    test("an adapter that was there stays whole", async () => {
      const out = join(home.path, "kept");
      await trainJson("--data", rows, "--out", out, "--epochs", "1");
      const contents = () => Promise.all(FILES.map((file) => readFile(join(out, file), "utf8")));
      const before = await contents();
      const running = start("train", ["--model", model, "--data", rows, "--out", out, ...LONG]);
      await running.printed("trainable params");
      await Bun.sleep(200);
      running.process.kill("SIGINT");
      expect((await running.ended()).status).toBe(130);
      expect(await contents()).toEqual(before);
      expect((await readdir(out)).filter((name) => name !== "checkpoints").sort()).toEqual(FILES);
    });

    test("in the middle of one long pass: it is not waited for", async () => {
      const [wide, long, out] = ["wide", "long.jsonl", "pass"].map((name) => join(home.path, name));
      await writeTinyModel(wide, { hidden: 64, positions: 2 ** 20 });
      const row = { instruction: "Say it.", input: "long", output: "abcdefgh ".repeat(20_000) };
      await writeFile(long, JSON.stringify(row));
      // A single pass over 180,000 tokens: several minutes.
      const options = ["--data", long, "--max-length", "1000000", "--out", out, "--device", "cpu"];
      const running = start("train", ["--model", wide, ...options]);
      await running.printed("trainable params");
      await Bun.sleep(2000);
      const interrupted = performance.now();
      running.process.kill("SIGINT");
      const { status, stderr } = await running.ended();
      expect(performance.now() - interrupted).toBeLessThan(30_000);
      expect(status).toBe(130);
      expect(stderr).toEndWith(`Interrupted. No adapter was written; what ${out} held before is unchanged.\n`);
      expect(await Bun.file(out).exists()).toBe(false);
    });

    test("a second one ends it at once", async () => {
      const running = start("train", ["--model", model, "--data", rows, "--out", join(home.path, "twice"), ...LONG]);
      await running.printed("trainable params");
      running.process.kill("SIGINT");
      await running.printed("Stopping");
      running.process.kill("SIGINT");
      expect((await running.ended()).status).toBe(130);
    });

    test.skipIf(!REAL_MODEL)("on real weights, in the middle of a long pass: status 130, nothing written", async () => {
      const out = join(home.path, "real");
      const running = start("train", ["--model", REAL_MODEL!, "--data", SEED_DATA, "--out", out]);
      await running.printed("trainable params");
      await Bun.sleep(500);
      running.process.kill("SIGINT");
      const { status, stderr } = await running.ended();
      expect(status).toBe(130);
      expect(stderr).toContain("Interrupted. No adapter was written");
      expect(await readdir(home.path)).not.toContain("real");
    });

    test("SIGTERM: status 143, no adapter", async () => {
      const out = join(home.path, "term");
      const running = start("train", ["--model", model, "--data", rows, "--out", out, ...LONG]);
      await running.printed("trainable params");
      running.process.kill("SIGTERM");
      expect((await running.ended()).status).toBe(143);
      expect(await Bun.file(join(out, "adapter_config.json")).exists()).toBe(false);
    });
  });
});
