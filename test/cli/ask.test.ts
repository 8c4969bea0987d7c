import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { cp, mkdir, readdir, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { writeTinyGguf } from "../../packages/qwen/src/gguf/testdata.ts";
import { Qwen } from "../../packages/qwen/src/index.ts";
import { command, ROOT, start, temporaryFolder } from "../support/process.ts";
import { writeTinyModel } from "../support/tiny-model.ts";

// Each test starts processes, on machines that may be slow and busy.
setDefaultTimeout(120_000);

let home: Awaited<ReturnType<typeof temporaryFolder>>;
let [model, adapter] = ["", ""];
beforeAll(async () => {
  home = await temporaryFolder();
  [model, adapter] = ["tiny", "mine"].map((name) => join(home.path, name));
  await writeTinyModel(model);
  const rows = join(home.path, "rows.json");
  await writeFile(rows, JSON.stringify([{ instruction: "请回答", input: "你好吗?", output: "很好,谢谢!" }]));
  const recipe = ["--epochs", "60", "--lr", "2e-2", "--targets", "all", "--dropout", "0", "--alpha", "16"];
  const { status, stderr } = await command("train", ["--model", model, "--data", rows, "--out", adapter, ...recipe]);
  if (status !== 0) throw new Error(stderr);
});
afterAll(() => home[Symbol.asyncDispose]());

interface Answer {
  prompt: string;
  prompt_tokens: number[];
  tokens: number[];
  text: string;
  finish_reason: string;
  tokens_per_second: number;
}

async function ask(...args: string[]): Promise<Answer> {
  const { status, stdout, stderr } = await command("ask", [...args, "--json"]);
  if (status !== 0) throw new Error(stderr);
  return JSON.parse(stdout);
}

describe("ask", () => {
  test("without an adapter: the template with the default instruction, greedy, the same every time", async () => {
    const answer = await ask("多大 {}?", "--model", model, "--max-new-tokens", "12");
    expect(answer.prompt).toBe("### Instruction:\n回答关于飞跃云产品的问题\n\n### Input:\n多大 {}?\n\n### Response:\n");
    expect(answer.prompt_tokens.length).toBeGreaterThan(20);
    expect(answer.tokens.length).toBe(12);
    expect(answer.finish_reason).toBe("length");
    expect(answer.tokens_per_second).toBeGreaterThan(0);
    const { tokens_per_second: _, ...again } = await ask("多大 {}?", "--model", model, "--max-new-tokens", "12");
    expect(again as Partial<Answer>).toEqual({ ...answer, tokens_per_second: undefined } as never);
  });

  test("with an adapter: as its training put it, on the model it belongs to, the answer it learned", async () => {
    const answer = await ask("你好吗?", "--adapter", adapter);
    expect(answer.prompt).toBe("### Instruction:\n请回答\n\n### Input:\n你好吗?\n\n### Response:\n");
    expect(answer.text).toBe("很好,谢谢!");
    expect(answer.finish_reason).toBe("stop");
    const base = await ask("你好吗?", "--model", model, "--instruction", "请回答", "--max-new-tokens", "20");
    expect(base.prompt).toBe(answer.prompt);
    expect(base.text).not.toBe(answer.text);
  });

  test("for people: the answer alone on stdout", async () => {
    const { status, stdout, stderr } = await command("ask", ["你好吗?", "--adapter", adapter]);
    expect(stdout).toBe("很好,谢谢!\n");
    expect(stderr).toContain(`with ${adapter}: `);
    expect(status).toBe(0);
  });

  test("--chat goes through the chat template", async () => {
    const { prompt } = await ask("hello", "--chat", "--model", model, "--max-new-tokens", "1");
    expect(prompt).toBe("<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n");
  });

  test("sampling follows the seed", async () => {
    const options = ["x", "--model", model, "--temperature", "1.5", "--max-new-tokens", "16", "--seed"];
    const [first, again, different] = [
      await ask(...options, "1"),
      await ask(...options, "1"),
      await ask(...options, "2"),
    ];
    expect(again.tokens).toEqual(first.tokens);
    expect(different.tokens).not.toEqual(first.tokens);
  });

  test("--json-schema: an answer that meets the schema; what is wrong with the file is told", async () => {
    const schema = join(home.path, "schema.json");
    await writeFile(
      schema,
      JSON.stringify({ type: "object", properties: { a: { type: "boolean" } }, required: ["a"] }),
    );
    const args = ["你好吗?", "--model", model, "--json-schema", schema, "--temperature", "1", "--seed", "3"];
    const { text, finish_reason } = await ask(...args, "--presence-penalty", "0.5", "--typical-p", "0.9");
    expect([typeof JSON.parse(text).a, finish_reason]).toEqual(["boolean", "stop"]);
    await writeFile(schema, '{"not": {}}');
    const refused = await command("ask", args);
    expect([refused.status, refused.stderr]).toEqual([2, expect.stringContaining('has "not", which is not supported')]);
    const missing = await command("ask", [...args.slice(0, 4), "none.json"]);
    expect([missing.status, missing.stderr]).toEqual([2, expect.stringContaining("--json-schema none.json: ENOENT")]);
  });

  test("--stop ends the answer before the text", async () => {
    const { text, finish_reason } = await ask("你好吗?", "--adapter", adapter, "--stop", "谢谢");
    expect(text).toBe("很好,");
    expect(finish_reason).toBe("stop");
  });

  test("the devices agree", async () => {
    const options = ["你好吗?", "--adapter", adapter, "--device"];
    const [reference, cpu] = [await ask(...options, "reference"), await ask(...options, "cpu", "--threads", "1")];
    expect(cpu.tokens).toEqual(reference.tokens);
  });

  test("--quantize rounds the weights and keeps them for the next time; a GGUF file is a model as well", async () => {
    const env = { XDG_CACHE_HOME: join(home.path, "cache") };
    const options = ["你好吗?", "--adapter", adapter];
    const run = (...args: string[]) => command("ask", [...options, ...args], { env });
    const [eight, four, again] = [
      await run("--quantize", "q8"),
      await run("--quantize", "q4"),
      await run("--quantize", "q8"),
    ];
    expect([eight.status, four.status]).toEqual([0, 0]);
    // The tiny model was trained to say this with a margin that 8 bits leave.
    expect(eight.stdout).toBe("很好,谢谢!\n");
    expect(again.stdout).toBe(eight.stdout);
    const kept = await readdir(join(home.path, "cache/tslm/quantized"));
    expect(kept.map((name) => /-(q\d)-.*\.gguf$/.exec(name)?.[1]).sort()).toEqual(["q4", "q8"]);
    const gguf = join(home.path, "tiny.gguf");
    using qwen = await Qwen.load(model);
    await writeTinyGguf(gguf, qwen.model);
    const plain = await ask("x", "--model", model, "--max-new-tokens", "8");
    expect((await ask("x", "--model", gguf, "--max-new-tokens", "8")).tokens).toEqual(plain.tokens);
    const twice = await command("ask", ["x", "--model", gguf, "--quantize", "q8"]);
    expect(twice.stderr).toContain(`${gguf}: holds weights that are quantised already`);
    expect(twice.status).toBe(1);
  });

  test("a question longer than the model's positions is told", async () => {
    const { status, stderr } = await command("ask", ["长".repeat(1000), "--model", model]);
    expect(stderr).toMatch(/^error: \d+ tokens do not fit into the 2048 of the model .*; shorten the text\n$/);
    expect(status).toBe(1);
  });

  test("a model without a chat template cannot --chat", async () => {
    const bare = join(home.path, "bare");
    await cp(model, bare, { recursive: true });
    await writeFile(join(bare, "tokenizer_config.json"), "{}");
    const { status, stderr } = await command("ask", ["x", "--chat", "--model", bare]);
    expect(stderr).toContain("has no chat template");
    expect(status).toBe(1);
  });

  test("an adapter whose model has gone says which", async () => {
    const gone = join(home.path, "gone");
    await cp(adapter, gone, { recursive: true });
    await rm(join(gone, "adapter_model.safetensors"));
    const { status, stderr } = await command("ask", ["x", "--adapter", gone]);
    expect(stderr).toContain("adapter_model.safetensors");
    expect(status).toBe(1);
    await mkdir(join(home.path, "empty"));
    const none = await command("ask", ["x", "--adapter", join(home.path, "empty")]);
    expect(none.stderr).toContain("adapter_config.json: there is no such file; an adapter is a folder with this file");
  });

  test("Ctrl-C in the middle of an answer: status 130", async () => {
    const running = start("ask", ["x", "--model", model, "--max-new-tokens", "1900", "--temperature", "2"]);
    while (running.stdout().length < 5) await Bun.sleep(10);
    running.process.kill("SIGINT");
    const { status, stderr } = await running.ended();
    expect(status).toBe(130);
    expect(stderr).toContain("Interrupted.");
  });
});

interface Case {
  prompt: string;
  ids: number[];
  token_logprobs: number[];
  top: [number, number][];
  logsumexp: number;
  text: string;
  tokens: number[];
}

describe("eval", () => {
  async function evaluate(cases: unknown, ...args: string[]) {
    const file = join(home.path, "cases.json");
    await writeFile(file, typeof cases === "string" ? cases : JSON.stringify(cases));
    const { status, stdout, stderr } = await command("eval", [file, "--json", "--model", model, ...args]);
    if (status !== 0) throw new Error(stderr);
    const lines = stdout
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line));
    return {
      cases: lines.slice(0, -1) as Case[],
      summary: lines.at(-1) as { perplexity: number | null; cases: number },
    };
  }

  test("every kind of case, a line each, then the perplexity", async () => {
    const { cases, summary } = await evaluate(
      [
        { text: "hello 中文" },
        { messages: [{ role: "user", content: "hi" }] },
        { instruction: "I", input: "Q", output: "A" },
        { instruction: "I", input: "Q" },
      ],
      "--generate",
      "5",
    );
    expect(cases.map(({ prompt }) => prompt)).toEqual([
      "hello 中文",
      "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
      "### Instruction:\nI\n\n### Input:\nQ\n\n### Response:\nA<|im_end|>",
      "### Instruction:\nI\n\n### Input:\nQ\n\n### Response:\n",
    ]);
    for (const one of cases) {
      expect(one.token_logprobs).toHaveLength(one.ids.length - 1);
      for (const value of one.token_logprobs) expect(value).toBeLessThan(0);
      expect(one.top).toHaveLength(10);
      one.top.forEach(([, logit], i) => {
        if (i > 0) expect(logit).toBeLessThanOrEqual(one.top[i - 1][1]);
        expect(logit).toBeLessThan(one.logsumexp);
      });
      expect(one.tokens.length).toBeLessThanOrEqual(5);
      if (one.tokens.length > 0) expect(one.tokens[0]).toBe(one.top[0][0]);
    }
    const all = cases.flatMap(({ token_logprobs }) => token_logprobs);
    const mean = all.reduce((a, b) => a + b, 0) / all.length;
    expect(summary.cases).toBe(4);
    expect(summary.perplexity!).toBeCloseTo(Math.exp(-mean), 5);
  });

  test("JSON Lines, without continuation, with an adapter", async () => {
    const line = JSON.stringify({ instruction: "请回答", input: "你好吗?", output: "很好,谢谢!" });
    const base = await evaluate(`${line}\n${line}\n`);
    expect(base.cases).toHaveLength(2);
    expect(base.cases[0]).toMatchObject({ text: "", tokens: [] });
    const tuned = await evaluate(`${line}\n`, "--adapter", adapter);
    expect(tuned.summary.perplexity!).toBeLessThan(base.summary.perplexity! / 10);
  });

  test("a text of one token has no perplexity", async () => {
    expect((await evaluate([{ text: "x" }])).summary).toEqual({ perplexity: null, cases: 1 });
  });

  test("a slow reader gets every line", async () => {
    const file = join(home.path, "many.jsonl");
    await writeFile(
      file,
      Array(120)
        .fill(JSON.stringify({ text: "hello 中文 ".repeat(20) }))
        .join("\n"),
    );
    const bin = join(ROOT, "packages/cli/src/bin/eval.ts");
    const line = `bun "${bin}" "${file}" --model "${model}" --json | (sleep 3; cat)`;
    const { stdout } = Bun.spawnSync(["sh", "-c", line], { stderr: "ignore" });
    const lines = stdout.toString().trim().split("\n");
    expect(stdout.length).toBeGreaterThan(200_000);
    expect(lines).toHaveLength(121);
    expect(JSON.parse(lines[120])).toMatchObject({ cases: 120 });
  });

  test("for people: a line or two a case", async () => {
    const file = join(home.path, "one.json");
    await writeFile(file, JSON.stringify([{ text: "hello world" }]));
    const { stdout } = await command("eval", [file, "--model", model]);
    expect(stdout).toMatch(/^1\. hello world\n {3}perplexity [\d.]+\nperplexity [\d.]+ over 1 case\n$/);
  });

  const bad: [string, string, string][] = [
    ["no case", "[]", "bad.json"],
    ["a case of no kind", '[{"text": "a"}, {"question": "b"}]', 'bad.json, line 1 (row 2): a case is {"text"}'],
    ["a text that is none", '[{"text": 3}]', "(row 1): a case is"],
    ["broken JSON", '[{"text": "a"', "bad.json"],
  ];
  test.each(bad)("%s: one sentence, status 1", async (_, content, sentence) => {
    const file = join(home.path, "bad.json");
    await writeFile(file, content);
    const { status, stdout, stderr } = await command("eval", [file, "--json", "--model", model]);
    expect(stderr).toContain(sentence);
    expect(stderr.trim().split("\n")).toHaveLength(1);
    expect(status).toBe(1);
    expect(stdout).toBe("");
  });
});
