/** `train`'s options of kinds of adapters, layers, objective and rates: what is recorded, and what is refused. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { openSafetensors } from "../../packages/tensor/src/index.ts";
import { command, temporaryFolder } from "../support/process.ts";
import { writeTinyModel } from "../support/tiny-model.ts";

setDefaultTimeout(120_000);

let home: Awaited<ReturnType<typeof temporaryFolder>>;
beforeAll(async () => {
  home = await temporaryFolder();
  await writeTinyModel(join(home.path, "tiny"));
  const row = JSON.stringify({ instruction: "Say it.", input: "one", output: "one!" });
  await writeFile(join(home.path, "rows.jsonl"), `${row}\n`);
});
afterAll(() => home[Symbol.asyncDispose]());

const train = (out: string, ...args: string[]) =>
  command("train", ["--model", "tiny", "--data", "rows.jsonl", "--out", out, ...args], { cwd: home.path });

async function trained(out: string, ...args: string[]) {
  const { status, stderr } = await train(out, ...args);
  if (status !== 0) throw new Error(stderr);
  const json = async (file: string) => JSON.parse(await readFile(join(home.path, out, file), "utf8"));
  using weights = await openSafetensors(join(home.path, out, "adapter_model.safetensors"));
  return {
    config: await json("adapter_config.json"),
    options: (await json("training.json")).options,
    names: [...weights.names()],
  };
}

test("DoRA with rsLoRA on chosen layers, and every setting of objective and rates", async () => {
  const settings = [
    "--label-smoothing",
    "0.1",
    "--neftune-alpha",
    "5",
    "--loraplus-lr-ratio",
    "16",
    "--min-lr",
    "1e-5",
  ];
  const rates = ["--scheduler", "cosine_with_restarts", "--num-cycles", "2", "--warmup-steps", "1"];
  const layers = ["--targets", "all", "--layers", "1", "--exclude", "o_proj,down_proj"];
  const { config, options, names } = await trained(
    "dora",
    "--use-dora",
    "--use-rslora",
    ...layers,
    ...settings,
    ...rates,
  );
  const targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
  expect(config).toMatchObject({
    ...{ use_dora: true, use_rslora: true, init_lora_weights: true },
    ...{ target_modules: targets, layers_to_transform: [1], exclude_modules: ["o_proj", "down_proj"] },
  });
  expect(options).toMatchObject({
    ...{ "use-dora": true, "use-rslora": true, targets, layers: [1], exclude: ["o_proj", "down_proj"] },
    ...{ "label-smoothing": 0.1, "neftune-alpha": 5, "loraplus-lr-ratio": 16, "min-lr": 1e-5 },
    ...{ scheduler: "cosine_with_restarts", "num-cycles": 2, "warmup-steps": 1 },
  });
  const prefix = "base_model.model.model.layers.1";
  const adapted = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj"];
  const endings = ["lora_A.weight", "lora_B.weight", "lora_magnitude_vector"];
  const wanted = adapted.flatMap((layer) => endings.map((ending) => `${prefix}.${layer}.${ending}`));
  expect(names.sort()).toEqual(wanted.sort());
});

test("targets by an expression; the adapter of a start from the weights is a plain one of twice the rank", async () => {
  const expression = "model\\.layers\\.[0-9]+\\.self_attn\\.[qk]_proj";
  const { config, options, names } = await trained("pissa", "--targets", expression, "--init-lora-weights", "pissa");
  expect(config).toMatchObject({ target_modules: expression, init_lora_weights: true, r: 16, lora_alpha: 64 });
  expect(options).toMatchObject({ targets: expression, "init-lora-weights": "pissa", rank: 8, alpha: 32 });
  expect(names).toHaveLength(8);
  const again = await trained("more", "--init-adapter", "pissa");
  expect(again.config).toMatchObject({ r: 16, init_lora_weights: true });
});

test.each([
  [["--layers", "3-1"], 2, "numbers of layers from 0 with commas between, or ranges of them, such as 0-11,23"],
  [["--layers", "0,7"], 1, "--layers: the model has no layer 7; its 2 layers are 0 to 1"],
  [["--targets", "(q_proj"], 2, "names of layers with commas between, such as q_proj,v_proj, or a regular expression"],
  [["--targets", "q_prj"], 1, 'target_modules ["q_prj"] match no layer'],
  [["--targets", ".*q_proj", "--layers", "1"], 1, "need target_modules as a list"],
  [["--init-lora-weights", "eva"], 2, "one of true, false, gaussian, pissa, pissa_niter_N, olora"],
  [["--use-dora", "--init-lora-weights", "olora"], 1, "take one of the two"],
  [["--use-dora", "--init-adapter", "pissa"], 2, "cannot be used with option '--use-dora'"],
  [["--warmup", "0.1", "--warmup-steps", "3"], 2, "cannot be used with option '--warmup <r>'"],
  [["--min-lr", "1"], 1, "--min-lr is 1, above the highest rate, 0.0002; lower it or raise --lr"],
  [["--label-smoothing", "2"], 2, "It must be a number from 0 to 1."],
])("%j is refused", async (args, status, sentence) => {
  const ended = await train("refused", ...args);
  expect(ended.stderr).toContain(sentence);
  expect(ended.status).toBe(status);
});
