/**
 * What `export` writes, in the hands of the tools that it is for. The command on the demo model; the file formats on real
 * weights and an adapter that PyTorch trained, loaded by transformers, PEFT and llama.cpp, which must answer as the model
 * here does. What is missing on a machine is said in the titles.
 *
 * Reports of users of other tools that are held here: fine in training, gibberish after export (unsloth #976, ollama #8363: another
 * template, another end token); adapters that no other tool loads (mlx-lm #1119, ollama #6858).
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { cp, mkdir, mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  type Lora,
  loadAdapter,
  mergedParameters,
  mlxFiles,
  promptFormat,
  promptOf,
  saveAdapter,
  saveFolder,
  writeLoraGguf,
} from "../packages/lora/src/index.ts";
import { type ModelToWrite, Qwen, writeModelFolder, writeModelGguf } from "../packages/qwen/src/index.ts";
import {
  createDevice,
  type Device,
  openGguf,
  openSafetensors,
  Tensor,
  writeSafetensors,
} from "../packages/tensor/src/index.ts";
import { findGguf, findGolden, findLlama, findPython, findWeights, titleOf } from "./support/golden.ts";
import { CAN_MOUNT, command, OFFLINE, ROOT, start, tinyDisk } from "./support/process.ts";

const DEMO = join(ROOT, "models", "demo");
const QUESTION = "免费空间有多大?";
const ANSWER = "您好!感谢您的咨询。飞跃云为每一位注册用户提供 15GB 的基础免费存储空间,足以满足日常文档备份需求。";

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "tslm-export-"));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

const furthest = (a: ArrayLike<number>, b: ArrayLike<number>): number =>
  Array.from(a).reduce((most, x, i) => Math.max(most, Math.abs(x - b[i])), 0);

/** Runs `export` and gives what it says as JSON. */
async function exported(args: readonly string[]) {
  const { status, stdout, stderr } = await command("export", [...args, "--json"], { cwd: folder, env: OFFLINE });
  if (status !== 0) throw new Error(`export ended with ${status}: ${stderr}`);
  return JSON.parse(stdout);
}

async function refused(args: readonly string[]): Promise<{ status: number; told: string }> {
  const { status, stderr } = await command("export", args, { cwd: folder, env: OFFLINE });
  return { status, told: stderr.trim() };
}

describe("the command, on the demo model", () => {
  let adapter: string;
  beforeAll(async () => {
    adapter = join(folder, "adapter");
    const { status, stderr } = await command(
      "train",
      ["--model", "demo", "--data", join(ROOT, "data/input/lora_train_data.csv"), "--out", adapter],
      { cwd: folder, env: OFFLINE },
    );
    expect({ status, stderr: status === 0 ? "" : stderr }).toEqual({ status: 0, stderr: "" });
  }, 60_000);

  const cases: [string, string, string[]][] = [
    [
      "safetensors",
      "bf16",
      ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"],
    ],
    ["gguf", "q8_0", ["Modelfile", "gguf-q8_0.gguf"]],
    ["gguf", "q4_0", ["Modelfile", "gguf-q4_0.gguf"]],
    ["gguf-lora", "f32", ["gguf-lora-f32.gguf"]],
    ["peft", "f32", ["adapter_config.json", "adapter_model.safetensors"]],
    ["mlx", "f32", ["adapter_config.json", "adapters.safetensors"]],
  ];
  test.each(cases)(
    "%s %s: loaded again it answers the same, also through ask",
    async (format, type, files) => {
      const out = join(folder, `${format}-${type}`, format);
      const result = await exported([
        ...["--adapter", adapter, "--format", format, "--quantize", type, "--out", out, "--question", QUESTION],
      ]);
      expect(result).toMatchObject({
        format,
        type,
        out,
        answers: [{ question: QUESTION, before: ANSWER, after: ANSWER }],
      });
      expect(result.check.relative_difference).toBeLessThanOrEqual(result.check.limit);
      expect(result.check.relative_difference_from_base).toBeGreaterThan(result.check.relative_difference);
      expect((await readdir(out)).sort()).toEqual([...files, "README.md", "prompt.json", "training.json"].sort());
      expect(await readdir(join(out, ".."))).toEqual([format]);
      const [weights] = files.filter((name) => name.endsWith(".gguf"));
      const path = weights ? join(out, weights) : out;
      const isAdapter = !["safetensors", "gguf"].includes(format);
      const given = isAdapter ? ["--model", "demo", "--adapter", path] : ["--model", path];
      const { stdout } = await command("ask", [QUESTION, ...given, "--json"], { env: OFFLINE });
      expect(JSON.parse(stdout).text).toBe(ANSWER);
    },
    60_000,
  );

  test("the merged model is asked through its own chat template as training asked, and knows its end", async () => {
    using qwen = await Qwen.load(join(folder, "safetensors-bf16", "safetensors"));
    const { template, instruction } = await Bun.file(join(adapter, "prompt.json")).json();
    const trained = promptOf({ input: QUESTION }, { template, instruction });
    expect(qwen.tokenizer.renderChat([{ role: "user", content: QUESTION }])).toBe(trained);
    expect(qwen.generationConfig).toMatchObject({ doSample: false, repetitionPenalty: 1 });
    expect(qwen.generationConfig.eosTokenIds[0]).toBe(qwen.tokenizer.tokenToId("<|im_end|>")!);
    const modelfile = await readFile(join(folder, "gguf-q8_0", "gguf", "Modelfile"), "utf8");
    expect(modelfile).toContain("FROM ./gguf-q8_0.gguf\n");
    expect(modelfile).toContain(`SYSTEM """${instruction}"""`);
    expect(modelfile).not.toMatch(/^ADAPTER/m);
    for (const stop of ["<|im_end|>", "### Instruction:"]) expect(modelfile).toContain(`PARAMETER stop "${stop}"`);
    using file = await openGguf(join(folder, "gguf-q8_0", "gguf", "gguf-q8_0.gguf"));
    expect(file.metadata.get("tokenizer.ggml.eos_token_id")).toBe(qwen.generationConfig.eosTokenIds[0]);
  });

  test("the card tells settings, data and results", async () => {
    const card = await readFile(join(folder, "peft-f32", "peft", "README.md"), "utf8");
    expect(card).toStartWith("---\nlibrary_name: peft\npipeline_tag: text-generation\ntags:\n  - lora\n---\n");
    expect(card).toMatch(/\| epochs \| 3 \|/);
    expect(card).toMatch(/\| SHA-256 of the file \| [0-9a-f]{64} \|/);
    expect(card).toMatch(/\| loss, last step \| 0\.\d+ \|/);
    expect(card).toContain("largest difference of a logit");
  });

  test("wrong usage, a full folder, another base: told, and nothing is written", async () => {
    const out = join(folder, "refused");
    const base = ["--adapter", adapter, "--out", out];
    expect(await refused([...base, "--format", "safetensors", "--quantize", "q8_0"])).toEqual({
      status: 2,
      told: "error: --format safetensors cannot be q8_0; it can be bf16, f16, f32",
    });
    expect((await refused(["--format", "mlx", "--out", out])).told).toContain("say which with --adapter PATH");
    expect((await refused([...base, "--format", "gguf", "--out", "x.gguf"])).told).toContain("--out is a folder");
    const full = join(folder, "safetensors-bf16", "safetensors");
    const { status, told } = await refused(["--adapter", adapter, "--format", "peft", "--out", full]);
    expect([status, told]).toEqual([1, expect.stringContaining("is not empty")]);

    // The same shapes and other weights: the demo with the adapter merged in.
    const other = await refused([...base, "--model", full, "--format", "peft"]);
    expect([other.status, other.told]).toEqual([1, expect.stringContaining("was trained on other weights than these")]);
    expect(existsSync(out)).toBe(false);
    const asked = await command("ask", [QUESTION, "--model", full, "--adapter", adapter], { env: OFFLINE });
    expect([asked.status, asked.stderr]).toEqual([
      0,
      expect.stringContaining("was trained on other weights than these"),
    ]);
    await exported([...base, "--model", full, "--format", "peft", "--any-base"]);
    await exported([...base, "--format", "peft", "--overwrite"]);
  }, 60_000);

  test("weights that are no numbers, or too large for the type: an error, and nothing is left", async () => {
    const broken = async (name: string, change: (x: number) => number): Promise<string> => {
      const dir = join(folder, name);
      await cp(adapter, dir, { recursive: true });
      using file = await openSafetensors(join(adapter, "adapter_model.safetensors"));
      const tensors = new Map<string, Tensor>();
      for (const key of file.names()) {
        const t = file.tensor(key);
        const values = (await t.data()) as Float32Array;
        tensors.set(key, key.includes("lora_B") ? Tensor.from(values.map(change), t.shape) : t);
      }
      await writeSafetensors(join(dir, "adapter_model.safetensors"), tensors);
      return dir;
    };
    const place = join(folder, "broken");
    await mkdir(place);
    const run = async (dir: string) => {
      const args = ["--adapter", dir, "--format", "gguf", "--quantize", "f16", "--out", join(place, "out")];
      const { status, told } = await refused(args);
      expect(await readdir(place)).toEqual([]);
      return [status, told];
    };
    expect(await run(await broken("nan", () => Number.NaN))).toEqual([1, expect.stringContaining("gives no numbers")]);
    // Halves end at 65504: what is infinite in the file was a number in memory.
    expect(await run(await broken("large", (x) => x * 1e8))).toEqual([
      1,
      expect.stringContaining("gives other logits when it is loaded again"),
    ]);
  }, 30_000);

  test("train goes on from an adapter of mlx-lm, serve answers with one of llama.cpp and warns of another base", async () => {
    const [mlx, lora] = [
      join(folder, "mlx-f32", "mlx"),
      join(folder, "gguf-lora-f32", "gguf-lora", "gguf-lora-f32.gguf"),
    ];
    const out = join(folder, "more");
    const data = join(ROOT, "data/input/lora_train_data.csv");
    const trained = await command(
      "train",
      ["--model", "demo", "--data", data, "--init-adapter", mlx, "--epochs", "1", "--out", out, "--json"],
      { cwd: folder, env: OFFLINE },
    );
    expect([trained.status, trained.stderr]).toEqual([0, expect.not.stringContaining("warning: the adapter")]);
    expect(JSON.parse(trained.stdout).samples[0].before).toBe(ANSWER);

    const other = join(folder, "safetensors-bf16", "safetensors");
    for (const [model, warned] of [
      ["demo", false],
      [other, true],
    ] as const) {
      const server = start("serve", ["--model", model, "--adapter", lora, "--port", "0", "--json"], { env: OFFLINE });
      const { url } = JSON.parse(await server.printed("\n", "stdout"));
      expect(server.stderr().includes("was trained on other weights than these")).toBe(warned);
      if (!warned) {
        const body = JSON.stringify({ message: QUESTION, max_tokens: 60, temperature: 0 });
        const reply = await fetch(new URL("/chat", url), {
          method: "POST",
          body,
          headers: { "content-type": "application/json" },
        });
        expect(((await reply.json()) as { reply: string }).reply).toBe(ANSWER);
      }
      server.process.kill("SIGTERM");
      expect((await server.ended()).status).toBe(0);
    }
  }, 60_000);

  test("Ctrl-C leaves nothing", async () => {
    const place = join(folder, "interrupted");
    await mkdir(place);
    const running = start("export", ["--adapter", adapter, "--format", "gguf", "--out", join(place, "out")], {
      env: OFFLINE,
    });
    await running.printed("Loading it again");
    running.process.kill("SIGINT");
    const { status } = await running.ended();
    expect(status).toBe(130);
    expect(await readdir(place)).toEqual([]);
  }, 30_000);

  test.skipIf(!CAN_MOUNT)(
    "a full disk: told before, and nothing is left",
    async () => {
      await using disk = await tinyDisk(2000);
      const { status, told } = await refused([
        "--adapter",
        adapter,
        "--format",
        "gguf",
        "--out",
        join(disk.path, "out"),
      ]);
      expect([status, told]).toEqual([1, expect.stringContaining("free some space")]);
      expect(await readdir(disk.path)).toEqual([]);
    },
    30_000,
  );
});

describe("adapters that mlx-lm made (mlx-lm/make.py)", () => {
  test.each(["lora", "dora"] as const)("%s: give the logits that mlx-lm gives", async (kind) => {
    const { ids, logits } = await Bun.file(join(import.meta.dir, "mlx-lm", "golden.json")).json();
    using qwen = await Qwen.load(DEMO);
    const base = (await qwen.score(ids)).logits;
    const lora = await loadAdapter(join(import.meta.dir, "mlx-lm", kind), qwen.model);
    const found = (await qwen.score(ids)).logits;
    const { sum, top } = logits[kind] as { sum: number; top: [number, number][] };
    for (const [id, logit] of top) expect(Math.abs(found[id] - logit)).toBeLessThan(1e-4);
    expect(Math.abs(found.reduce((a, b) => a + b, 0) - sum)).toBeLessThan(0.01);
    expect(furthest(found, base)).toBeGreaterThan(0.5);
    // What we write for mlx-lm is what it wrote: the same names, shapes and numbers.
    const again = join(folder, `mlx-${kind}`);
    await saveFolder(again, mlxFiles(lora, qwen.config.numHiddenLayers));
    const [theirs, ours] = [join(import.meta.dir, "mlx-lm", kind), again].map((dir) =>
      join(dir, "adapters.safetensors"),
    );
    using a = await openSafetensors(theirs);
    using b = await openSafetensors(ours);
    expect(b.names().sort()).toEqual(a.names().sort());
    for (const name of a.names()) expect(b.bytes(name)).toEqual(a.bytes(name));
    const [wanted, config] = await Promise.all(
      [theirs, ours].map((path) => Bun.file(join(path, "../adapter_config.json")).json()),
    );
    const { keys, ...parameters } = wanted.lora_parameters;
    expect({ ...config, model: wanted.model }).toMatchObject({
      ...{ fine_tune_type: kind, num_layers: 2, model: "tslm/demo" },
      lora_parameters: parameters,
    });
    expect(config.lora_parameters.keys.toSorted()).toEqual(keys.toSorted());
  });
});

const [weights, gguf, golden, python, llama] = [findWeights(), findGguf(), findGolden(), findPython(), findLlama()];
const real = titleOf("on real weights", { "real weights": weights, "golden adapter": golden });

describe.skipIf(real.skip)(real.title, () => {
  let device: Device;
  let qwen: Qwen;
  let lora: Lora;
  let model: ModelToWrite;
  let text: string;
  let ids: number[];
  beforeAll(async () => {
    device = await createDevice("cpu");
    qwen = await Qwen.load(weights!, { device });
    lora = await loadAdapter(join(golden!, "tuned_15gb"), qwen.model);
    const { config, tokenizer, generationConfig } = qwen;
    const greedy = { ...generationConfig, doSample: false, repetitionPenalty: 1 };
    model = { config, generationConfig: greedy, tokenizer: tokenizer.files, read: mergedParameters(qwen.model, lora) };
    text = promptOf({ input: QUESTION }, promptFormat(""));
    ids = tokenizer.encode(text);
  }, 60_000);
  afterAll(async () => {
    qwen?.dispose();
    await device?.dispose();
  });

  const hf = titleOf(
    "transformers loads the merged folder and PEFT the adapters that came through mlx-lm's and llama.cpp's formats",
    {
      "Python with transformers and PEFT": python,
    },
  );
  test.skipIf(hf.skip)(
    hf.title,
    async () => {
      const merged = join(folder, "merged");
      await mkdir(merged);
      await writeModelFolder(merged, model, "bf16");
      const adapters: string[] = [];
      for (const format of ["mlx", "gguf"]) {
        const [from, to] = [join(folder, `real-${format}`), join(folder, `real-peft-${format}`)];
        if (format === "mlx") await saveFolder(from, mlxFiles(lora, qwen.config.numHiddenLayers));
        else await saveFolder(from, { "x.gguf": (path) => writeLoraGguf(path, lora, { name: "x" }) });
        lora.detach();
        using back = await loadAdapter(from, qwen.model);
        await saveAdapter(to, back);
        back.detach();
        lora.attach();
        adapters.push(to);
      }
      const script = join(import.meta.dir, "support", "transformers_logits.py");
      const job = {
        model: merged,
        base: weights,
        adapters,
        prompts: [ids],
        generate: 60,
        chat: [{ role: "user", content: "你好" }],
      };
      const child = Bun.spawn([python!, script], {
        stdin: new Blob([JSON.stringify(job)]),
        stdout: "pipe",
        stderr: "pipe",
        env: { ...process.env, HF_HUB_OFFLINE: "1", TRANSFORMERS_VERBOSITY: "error" },
      });
      const [out, err] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
      if ((await child.exited) !== 0) throw new Error(`transformers refused it:\n${err.slice(-2000)}`);
      const theirs = JSON.parse(out);
      using ours = await Qwen.load(merged, { device });
      const mergedLogits = (await ours.score(ids)).logits;
      expect(furthest(mergedLogits, theirs.logits[0])).toBeLessThan(2e-3);
      expect(theirs.texts).toEqual([ANSWER]);
      expect(theirs.chat).toBe(ours.tokenizer.renderChat([{ role: "user", content: "你好" }]));
      // Merged and rounded it is near to the adapter beside the model, far from the base.
      expect(furthest(mergedLogits, (await qwen.score(ids)).logits)).toBeLessThan(0.2);
      const wanted = (await qwen.score(ids)).logits;
      for (const adapter of adapters) expect(furthest(wanted, theirs.adapters[adapter][0])).toBeLessThan(2e-3);
      lora.detach();
      expect(furthest((await qwen.score(ids)).logits, wanted)).toBeGreaterThan(1);
      lora.attach();
    },
    120_000,
  );

  const cpp = titleOf("llama.cpp answers with the merged GGUF and with base GGUF and LoRA GGUF what is answered here", {
    "node-llama-cpp": llama,
    "GGUF of the real weights": gguf,
  });
  test.skipIf(cpp.skip)(
    cpp.title,
    async () => {
      const [merged, adapter] = ["merged-q4_0.gguf", "lora.gguf"].map((name) => join(folder, name));
      await writeModelGguf(merged, model, "q4_0", { name: "merged" });
      await writeLoraGguf(adapter, lora, { name: "lora" });
      const jobs = [{ model: merged }, { model: gguf, lora: adapter }].map((job) => ({
        ...job,
        prompt: text,
        tokens: 60,
      }));
      const child = Bun.spawn(["node", join(import.meta.dir, "support", "llama_answers.mjs"), llama!], {
        stdin: new Blob([JSON.stringify(jobs)]),
        stdout: "pipe",
        stderr: "pipe",
      });
      const [out, err] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
      if ((await child.exited) !== 0) throw new Error(`llama.cpp refused it:\n${err.slice(-2000)}`);
      const { text: here, finishReason } = await qwen.complete(ids, { maxNewTokens: 60 });
      expect([here, finishReason]).toEqual([ANSWER, "stop"]);
      expect(JSON.parse(out)).toEqual([ANSWER, ANSWER].map((text) => ({ text, ended: true })));
    },
    180_000,
  );
});
