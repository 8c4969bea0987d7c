/** What `train` says of a run that went wrong, what it does about it, and what it keeps. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { cp, readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { command, ROOT, temporaryFolder } from "../support/process.ts";
import { REAL_MODEL } from "../support/real-model.ts";

setDefaultTimeout(180_000);

interface Told {
  diagnosis: { verdict: string; reasons: string[]; advice: string[]; changes: Record<string, unknown> };
  tries?: { changes: Record<string, unknown>; verdict: string; kept: boolean }[];
  samples: { before: string; after: string }[];
}

let home: Awaited<ReturnType<typeof temporaryFolder>>;
beforeAll(async () => {
  home = await temporaryFolder();
  await cp(join(ROOT, "data/input"), join(home.path, "data/input"), { recursive: true });
});
afterAll(() => home[Symbol.asyncDispose]());
const train = (model: string, ...args: string[]) =>
  command("train", ["--model", model, "--out", "adapter", ...args], { cwd: home.path });
const weights = () => readFile(join(home.path, "adapter/adapter_model.safetensors"));

describe("a run that fails keeps the good adapter that was there", () => {
  beforeAll(async () => {
    expect((await train("demo", "--recipe", "tuned")).status).toBe(0);
  });

  test("numbers that break are no success (mlx-lm #49)", async () => {
    const before = await weights();
    const { status, stdout, stderr } = await train("demo", "--lr", "1e30", "--clip", "0", "--json");
    expect(status).toBe(1);
    expect(stderr).toContain("The numbers broke (NaN).");
    expect(JSON.parse(stdout).diagnosis).toMatchObject({ verdict: "nan", changes: { lr: 0.001, warmup: 0.1 } });
    expect(await weights()).toEqual(before);
  });

  test("an adapter that did not move is no success (LLaMA-Factory #8242)", async () => {
    const before = await weights();
    const { status, stderr } = await train("demo", "--lr", "1e-30");
    expect(status).toBe(1);
    expect(stderr).toContain("Nothing was learned: the adapter is unchanged.");
    expect(stderr).toContain("`--lr 0.001` (it was 1e-30)");
    expect(await weights()).toEqual(before);
  });

  test("a model that training broke is no success: the adapter is put aside, and can be looked at", async () => {
    const before = await weights();
    const { status, stdout, stderr } = await train("demo", "--lr", "0.1");
    expect(status).toBe(1);
    expect(stderr).toContain("The model broke (collapse).");
    expect(stderr).toMatch(/is guessed, each word out of about \d+: /);
    expect(stderr).toContain("The adapter was put aside in adapter.rejected; adapter is as it was before.");
    expect(stderr).toEndWith(
      "error: training broke the model (collapse). adapter is as it was before; this run's adapter was put aside in adapter.rejected\n",
    );
    expect(stdout).toContain("免费空间约100GB。");
    expect(await weights()).toEqual(before);
    const files = (folder: string) => readdir(join(home.path, folder)).then((names) => names.sort());
    expect(await files("adapter.rejected")).toEqual(await files("adapter"));
    const asked = await command("ask", ["免费空间有多大?", "--model", "demo", "--adapter", "adapter.rejected"], {
      cwd: home.path,
    });
    expect([asked.status, asked.stdout]).toEqual([0, expect.not.stringContaining("15GB")]);
  });

  test("where there is no adapter yet, none is there afterwards; programs are told where the broken one is", async () => {
    const { status, stdout } = await train("demo", "--lr", "0.1", "--json", "--out", "new");
    expect(status).toBe(1);
    const { adapter, rejected_adapter, samples, diagnosis } = JSON.parse(stdout);
    expect([adapter, rejected_adapter]).toEqual([null, join(home.path, "new.rejected")]);
    expect(diagnosis.verdict).toBe("collapse");
    expect(samples[0].entropy.after).toBeGreaterThan(samples[0].entropy.before + 2);
    expect(await readdir(home.path)).not.toContain("new");
  });

  test("a run that is hopeless is given up on the way", async () => {
    const before = await weights();
    const { status, stdout, stderr } = await train("demo", "--lr", "3", "--epochs", "50", "--json");
    expect(status).toBe(1);
    expect(stderr).toMatch(/error: training was given up after step \d+\. The loss began at .+ and stays at/);
    expect(JSON.parse(stdout).diagnosis.verdict).toBe("divergence");
    expect(await weights()).toEqual(before);
  });
});

test("--fix changes what the diagnosis says, tells each try, and keeps the best", async () => {
  const { status, stdout, stderr } = await train("demo", "--lr", "3", "--epochs", "50", "--fix", "--json");
  expect(status).toBe(0);
  const { diagnosis, tries } = JSON.parse(stdout) as Told;
  expect(diagnosis.verdict).toBe("learned");
  expect(tries!.map(({ verdict, kept }) => [verdict, kept])).toEqual([
    ["divergence", false],
    ["learned", true],
  ]);
  expect(stderr).toContain("Try 1 of 3, with --lr 0.001 --epochs 25 --warmup 0.1");
  expect(stderr).toContain("adapter has the adapter of try 1 (learned), the best of 2");
});

test("--fix ends after as many tries as it may take", async () => {
  await writeFile(
    join(home.path, "one.jsonl"),
    JSON.stringify({ instruction: "", input: "门在哪?", output: "在 B77 楼。" }),
  );
  const hard = ["--data", "one.jsonl", "--lr", "1e-6", "--epochs", "1", "--layers", "0", "--sample", "门在哪?"];
  const { status, stdout } = await train("demo", ...hard, "--fix", "1", "--json");
  expect(status).toBe(0);
  const { tries } = JSON.parse(stdout) as Told;
  expect(tries).toHaveLength(2);
  expect(tries![1].changes).toMatchObject({ recipe: "tuned", lr: 0.001, epochs: 10 });
});

describe.skipIf(!REAL_MODEL)("on real weights", () => {
  const verdictOf = async (...args: string[]): Promise<Told> => {
    const { stdout, stderr } = await train(REAL_MODEL!, ...args, "--json");
    if (stdout === "") throw new Error(stderr);
    return JSON.parse(stdout);
  };

  test("a rate of 0.1 breaks the model", async () => {
    const { status, stdout } = await train(REAL_MODEL!, "--lr", "0.1", "--json");
    expect(["collapse", "divergence"]).toContain((JSON.parse(stdout) as Told).diagnosis.verdict);
    expect(status).toBe(1);
  });

  test("the default run is underfitting; --fix goes from there to the sentence of the data, as the tuned recipe does", async () => {
    const { diagnosis, tries, samples } = await verdictOf("--fix");
    expect(tries!.map(({ verdict }) => verdict)).toEqual(["underfitting", "learned"]);
    expect(tries![1].changes).toEqual({ recipe: "tuned", repeat: ["15GB=4"], lr: 1e-3, epochs: 10 });
    expect(diagnosis.verdict).toBe("learned");
    expect(samples[0].after).toBe(
      "您好!感谢您的咨询。飞跃云为每一位注册用户提供 15GB 的基础免费存储空间,足以满足日常文档备份需求。",
    );
  });
});
