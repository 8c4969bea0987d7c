import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { chmod, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Generator, openSafetensors, parseSafetensors, serializeSafetensors, tensor } from "@tslm/tensor";
import { loadAdapter, saveAdapter } from "./adapter.ts";
import { adapterBytes, CONFIG_FILE, WEIGHTS_FILE } from "./adapter-bytes.ts";
import { baseFingerprint } from "./base-fingerprint.ts";
import type { LoraConfigInput } from "./config.ts";
import { AdapterError } from "./errors.ts";
import { saveFolder } from "./folder.ts";
import { applyLora, type Lora } from "./lora.ts";
import { promptFormat } from "./prompt.ts";
import { readPrompt } from "./prompt-file.ts";
import { readRecord, trainingRecord } from "./record.ts";
import peft from "./testdata/peft-0.21.2.json";
import { perturb, TinyModel } from "./testing.ts";

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "lora-adapter-"));
});
afterEach(() => rm(folder, { recursive: true, force: true }));

async function adapted(config: Partial<LoraConfigInput> = {}, model = new TinyModel()): Promise<Lora> {
  const lora = applyLora(
    model,
    { r: 2, lora_alpha: 4, target_modules: ["q_proj", "v_proj"], ...config },
    new Generator(1),
  );
  await perturb(lora.parameters());
  return lora;
}

async function values(lora: Lora): Promise<Record<string, number[]>> {
  const all = [...lora.namedParameters()].map(async ([key, t]) => [key, [...(await t.data())]]);
  return Object.fromEntries(await Promise.all(all));
}

async function failure(running: Promise<unknown>): Promise<string> {
  const error = await running.catch((e: unknown) => e);
  expect(error).toBeInstanceOf(AdapterError);
  return (error as Error).message.replaceAll(folder, "DIR");
}

describe("what is saved loads exactly", () => {
  const configs: [string, Partial<LoraConfigInput>][] = [
    ["two targets", {}],
    ["all layers", { target_modules: "all-linear" }],
    ["an expression, rsLoRA", { target_modules: ".*[ko]_proj", use_rslora: true, lora_dropout: 0.1 }],
    [
      "ranks and alphas of single layers",
      { rank_pattern: { "0.self_attn.q_proj": 5 }, alpha_pattern: { v_proj: 0.5 } },
    ],
    ["some layers", { layers_to_transform: [1] }],
  ];
  test.each(configs)("%s", async (_, config) => {
    const lora = await adapted(config);
    await saveAdapter(folder, lora, { baseModel: "基础/模型" });
    expect((await readdir(folder)).sort()).toEqual([CONFIG_FILE, WEIGHTS_FILE]);
    const loaded = await loadAdapter(folder, new TinyModel());
    expect(await values(loaded)).toEqual(await values(lora));
    expect(loaded.config).toEqual({ ...lora.config, base_model_name_or_path: "基础/模型" });
    const scalings = ({ layers }: Lora): number[] => [...layers.values()].map((layer) => layer.scaling);
    expect(scalings(loaded)).toEqual(scalings(lora));
    expect(loaded.attached).toBe(true);
  });
});

test("keys and files are PEFT's", async () => {
  await saveAdapter(folder, await adapted({ layers_to_transform: 0 }), { baseModel: "base" });
  using file = await openSafetensors(join(folder, WEIGHTS_FILE));
  const prefix = "base_model.model.model.layers.0.self_attn";
  expect(file.names().map((name) => [name, file.info(name).dtype, file.info(name).shape])).toEqual([
    [`${prefix}.q_proj.lora_A.weight`, "F32", [2, 8]],
    [`${prefix}.q_proj.lora_B.weight`, "F32", [8, 2]],
    [`${prefix}.v_proj.lora_A.weight`, "F32", [2, 8]],
    [`${prefix}.v_proj.lora_B.weight`, "F32", [4, 2]],
  ]);
  expect(file.metadata).toEqual({ format: "pt" });
});

test("without a folder: the same bytes by the same names", async () => {
  const options = { baseModel: "base", prompt: promptFormat("base", "回答问题") };
  const lora = await adapted();
  await saveAdapter(folder, lora, options);
  const files = await adapterBytes(lora, options);
  expect(Object.keys(files).sort()).toEqual((await readdir(folder)).sort());
  for (const [name, bytes] of Object.entries(files)) {
    expect(Buffer.compare(bytes, await Bun.file(join(folder, name)).bytes())).toBe(0);
  }
});

test("prompt.json and training.json come with the adapter and read back", async () => {
  const prompt = promptFormat("基础", "回答问题");
  const record = trainingRecord({
    base_model: "基础",
    data: { file: "data.csv", examples: 5, tokens: 291 },
    options: { epochs: 3, lr: 2e-4 },
    steps: [{ step: 1, epoch: 1, loss: 4.2, grad_norm: 7.3, lr: 2e-4, tokens: 233, seconds: 1.5 }],
    machine: { cores: 2 },
  });
  const lora = await adapted();
  await saveAdapter(folder, lora, { prompt, record });
  expect(await readPrompt(folder)).toEqual({ ...prompt, base_fingerprint: await baseFingerprint(lora.model) });
  expect(await readRecord(folder)).toEqual(record);
  expect((await readRecord(folder))!.machine).toEqual({ cores: 2 });
});

test("bf16 adapters are widened", async () => {
  const lora = await adapted();
  await saveAdapter(folder, lora);
  const half = new Map([...lora.namedParameters()].map(([key, t]) => [key, t.to("bf16")]));
  await writeFile(join(folder, WEIGHTS_FILE), await serializeSafetensors(half));
  const loaded = await loadAdapter(folder, new TinyModel());
  expect(loaded.parameters().every((t) => t.dtype === "f32" && !t.storage.mapped)).toBe(true);
  const [exact, rounded] = [await values(lora), await values(loaded)];
  for (const [key, list] of Object.entries(exact)) {
    for (const [i, v] of list.entries()) expect(Math.abs(rounded[key][i] / v - 1)).toBeLessThan(2 ** -8);
  }
});

test("an adapter of PEFT 0.21: the change of every weight is PEFT's, and the weights are written again byte for byte", async () => {
  await writeFile(join(folder, CONFIG_FILE), peft.config);
  const weights = Buffer.from(peft.weights, "base64");
  await writeFile(join(folder, WEIGHTS_FILE), weights);
  const model = new TinyModel();
  const lora = await loadAdapter(folder, model);
  expect([...lora.layers.keys()].sort()).toEqual(Object.keys(peft.layers).sort());
  for (const [name, { scaling, delta }] of Object.entries<{ scaling: number; delta: number[] }>(peft.layers)) {
    const layer = lora.layers.get(name)!;
    expect([name, layer.scaling]).toEqual([name, scaling]);
    const change = await layer.variant.mergedWeight(layer).sub(layer.baseLayer.weight).data();
    expect(change.length).toBe(delta.length);
    expect(Math.max(...delta.map((d, i) => Math.abs(d - change[i])))).toBeLessThan(1e-6);
  }
  await saveAdapter(folder, lora);
  expect((await readFile(join(folder, WEIGHTS_FILE))).equals(weights)).toBe(true);
  // PEFT notes the class of a model that is not transformers'; nothing else differs.
  const [ours, theirs] = [await readFile(join(folder, CONFIG_FILE), "utf8"), peft.config];
  expect(ours).toBe(theirs.replace(/"auto_mapping": \{.*?\}/s, '"auto_mapping": null'));
});

describe("an adapter that does not fit is told apart by name", () => {
  test("another size: first tensor and both shapes", async () => {
    await saveAdapter(folder, await adapted(), { baseModel: "Tiny-8" });
    const model = new TinyModel({ size: 16 });
    expect(await failure(loadAdapter(folder, model))).toBe(
      "DIR/adapter_model.safetensors: the adapter does not fit this model (it was made for Tiny-8): base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight is [2,8], here it must be [2,16]",
    );
    // The model is as it was: another adapter can be put on.
    applyLora(model, { target_modules: ["q_proj"] }, new Generator(1)).remove();
  });

  test("more or fewer layers", async () => {
    await saveAdapter(folder, await adapted());
    expect(await failure(loadAdapter(folder, new TinyModel({ layers: 1 })))).toContain(
      "unexpected base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight, base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight, ",
    );
    expect(await failure(loadAdapter(folder, new TinyModel({ layers: 4 })))).toMatch(
      /missing base_model\.model\.model\.layers\.2\.self_attn\.q_proj\.lora_A\.weight, .* and 4 more$/,
    );
  });

  test("names that the model does not have", async () => {
    await saveAdapter(folder, await adapted());
    const path = join(folder, CONFIG_FILE);
    await writeFile(
      path,
      (await readFile(path, "utf8")).replace('"q_proj"', '"c_attn"').replace('"v_proj"', '"c_proj"'),
    );
    expect(await failure(loadAdapter(folder, new TinyModel()))).toBe(
      'DIR: the adapter does not fit this model: target_modules ["c_attn","c_proj"] match no layer; the linear layers of this model are q_proj, k_proj, v_proj, o_proj, lm_head',
    );
  });
});

describe("broken files", () => {
  const edit = async (change: (config: Record<string, unknown>) => void): Promise<void> => {
    await saveAdapter(folder, await adapted());
    const path = join(folder, CONFIG_FILE);
    const config = JSON.parse(await readFile(path, "utf8"));
    change(config);
    await writeFile(path, JSON.stringify(config));
  };
  const load = (): Promise<string> => failure(loadAdapter(folder, new TinyModel()));

  test("no adapter", async () => {
    expect(await load()).toBe(
      "DIR/adapter_config.json: there is no such file; an adapter is a folder with this file in it, as PEFT and mlx-lm save it, or a GGUF file",
    );
    const missing = await failure(loadAdapter(join(folder, "no"), new TinyModel()));
    expect(missing).toContain("DIR/no/adapter_config.json: there is no such file");
  });
  test("a feature that is not supported", async () => {
    await edit((c) => {
      c.use_qalora = true;
    });
    expect(await load()).toBe("DIR/adapter_config.json: use_qalora is not supported; it is true in this configuration");
  });
  test("rank 0", async () => {
    await edit((c) => {
      c.r = 0;
    });
    expect(await load()).toBe("DIR/adapter_config.json: r must be a whole number of at least 1, not 0");
  });
  test("JSON that ends early", async () => {
    await saveAdapter(folder, await adapted());
    await writeFile(join(folder, CONFIG_FILE), '{"r": 8,');
    expect(await load()).toMatch(/^DIR\/adapter_config\.json: is not JSON in UTF-8 \(.*\); was it cut off\?$/);
  });
  test("JSON of another kind", async () => {
    await saveAdapter(folder, await adapted());
    for (const text of ["[]", "3", "null", '"r"']) {
      await writeFile(join(folder, CONFIG_FILE), text);
      expect(await load()).toStartWith("DIR/adapter_config.json: ");
    }
  });
  test("weights cut off, missing, or in the old format", async () => {
    await saveAdapter(folder, await adapted());
    const path = join(folder, WEIGHTS_FILE);
    const bytes = await readFile(path);
    await writeFile(path, bytes.subarray(0, bytes.length - 4));
    expect(await load()).toContain("was it cut off?");
    await rm(path);
    expect(await load()).toContain("there is no such file");
    await writeFile(join(folder, "adapter_model.bin"), "x");
    expect(await load()).toContain(
      "adapter_model.bin is PEFT's old format: save it again with safe_serialization=True",
    );
  });
  test("an element type that is no number for weights", async () => {
    const lora = await adapted();
    await saveAdapter(folder, lora);
    const whole = new Map(
      [...lora.namedParameters()].map(([key, t]) => [
        key,
        tensor(new Int32Array(t.size), { dtype: "i32", shape: t.shape }),
      ]),
    );
    await writeFile(join(folder, WEIGHTS_FILE), await serializeSafetensors(whole));
    expect(await load()).toContain("q_proj.lora_A.weight is I32; an adapter's tensors are F32, BF16, F16, F64");
  });
  test("prompt.json of a newer format, or without its slots", async () => {
    await writeFile(join(folder, "prompt.json"), '{"format": 3}');
    expect(await failure(readPrompt(folder))).toBe(
      "DIR/prompt.json: format: is 3; this program reads formats 1 and 2, a newer one may read it",
    );
    const prompt = { ...promptFormat("base"), template: "Q: {} A:" };
    await writeFile(join(folder, "prompt.json"), JSON.stringify(prompt));
    expect(await failure(readPrompt(folder))).toBe(
      "DIR/prompt.json: template: must hold {} three times, for instruction, input and answer, not 1 times",
    );
    await rm(join(folder, "prompt.json"));
    expect(await readPrompt(folder)).toBeUndefined();
    expect(await readRecord(folder)).toBeUndefined();
  });
});

describe("saving", () => {
  test("makes the folder, keeps other files, replaces an earlier adapter", async () => {
    const target = join(folder, "a", "b");
    await saveAdapter(target, await adapted());
    await writeFile(join(target, "README.md"), "mine");
    await saveAdapter(target, await adapted({ r: 3 }));
    expect((await readdir(target)).sort()).toEqual(["README.md", CONFIG_FILE, WEIGHTS_FILE]);
    expect((await loadAdapter(target, new TinyModel())).config.r).toBe(3);
  });

  test("into a path that is a file, or a folder that cannot be written", async () => {
    await writeFile(join(folder, "file"), "");
    const lora = await adapted();
    expect(await failure(saveAdapter(join(folder, "file"), lora))).toMatch(/^DIR\/file: cannot be written: /);
    expect(await failure(saveAdapter(join(folder, "file", "below"), lora))).toBe(
      "DIR/file/below: cannot be written: a part of the path is a file, not a folder",
    );
  });

  test.skipIf(process.getuid?.() === 0)("where writing is denied (not as root, to whom nothing is)", async () => {
    await mkdir(join(folder, "locked"));
    await chmod(join(folder, "locked"), 0o500);
    expect(await failure(saveAdapter(join(folder, "locked"), await adapted()))).toContain("access is denied");
  });

  test("on a full disk", async () => {
    await saveAdapter(folder, await adapted());
    const full = async (path: string): Promise<void> => {
      const cause = Object.assign(new Error("ENOSPC: no space left on device"), { code: "ENOSPC" });
      throw new Error(`cannot write ${path}`, { cause });
    };
    expect(await failure(saveFolder(folder, { [CONFIG_FILE]: "{}", [WEIGHTS_FILE]: full }))).toBe(
      "DIR: cannot be written: the disk is full; free some space or choose another place",
    );
    expect((await loadAdapter(folder, new TinyModel())).config.r).toBe(2);
    expect((await readdir(folder)).sort()).toEqual([CONFIG_FILE, WEIGHTS_FILE]);
  });

  test("a failure in the middle leaves the earlier adapter whole and nothing beside it", async () => {
    await saveAdapter(folder, await adapted());
    const before = await readFile(join(folder, WEIGHTS_FILE));
    const broken = await adapted({ r: 3 });
    broken.parameters()[5].dispose();
    await expect(saveAdapter(folder, broken)).rejects.toThrow("was freed");
    expect((await readdir(folder)).sort()).toEqual([CONFIG_FILE, WEIGHTS_FILE]);
    expect(await readFile(join(folder, WEIGHTS_FILE))).toEqual(before);
  });

  test("a save that was declared complete and then interrupted is finished by the next load", async () => {
    await saveAdapter(folder, await adapted());
    const next = await mkdtemp(join(tmpdir(), "lora-next-"));
    await saveAdapter(next, await adapted({ r: 3 }));
    // As after a kill between the two moves: the configuration has arrived, the weights have not.
    await writeFile(join(folder, CONFIG_FILE), await readFile(join(next, CONFIG_FILE)));
    await mkdir(join(folder, ".saved"));
    await writeFile(join(folder, ".saved", WEIGHTS_FILE), await readFile(join(next, WEIGHTS_FILE)));
    expect((await loadAdapter(folder, new TinyModel())).config.r).toBe(3);
    expect((await readdir(folder)).sort()).toEqual([CONFIG_FILE, WEIGHTS_FILE]);
    await rm(next, { recursive: true });
  });

  test("when a file cannot be moved to its place, the complete save waits until it can", async () => {
    await saveAdapter(folder, await adapted());
    await rm(join(folder, WEIGHTS_FILE));
    await mkdir(join(folder, WEIGHTS_FILE, "in the way"), { recursive: true });
    expect(await failure(saveAdapter(folder, await adapted({ r: 3 })))).toMatch(
      /^DIR: holds a save that was interrupted and cannot be completed: /,
    );
    await rm(join(folder, WEIGHTS_FILE), { recursive: true });
    expect((await loadAdapter(folder, new TinyModel())).config.r).toBe(3);
    expect((await readdir(folder)).sort()).toEqual([CONFIG_FILE, WEIGHTS_FILE]);
  });

  test("killed at any moment, the folder holds one whole adapter", async () => {
    const script = `
      import { Generator } from "@tslm/tensor";
      import { applyLora, saveAdapter } from "./src/index.ts";
      import { TinyModel, write } from "./src/testing.ts";
      for (let r = 1; ; r = (r % 7) + 1) {
        const lora = applyLora(new TinyModel(), { r, target_modules: ["q_proj"] }, new Generator(1));
        for (const t of lora.parameters()) write(t, new Float32Array(t.size).fill(r));
        await saveAdapter(process.argv[1], lora);
        if (r === 1) console.log("saved");
      }`;
    const seen = new Set<number>();
    for (let i = 0; i < 12; i++) {
      const child = Bun.spawn([process.execPath, "-e", script, folder], {
        cwd: join(import.meta.dir, ".."),
        stdout: "pipe",
      });
      await child.stdout.getReader().read();
      await Bun.sleep(7 * i);
      child.kill("SIGKILL");
      await child.exited;
      const lora = await loadAdapter(folder, new TinyModel());
      const all = Object.values(await values(lora)).flat();
      expect(all.every((v) => v === lora.config.r)).toBe(true);
      seen.add(lora.config.r);
      lora.remove();
    }
    expect(seen.size).toBeGreaterThan(1);
  }, 30_000);
});

test("the file's bytes do not depend on the order of saving", async () => {
  const lora = await adapted({ target_modules: ["v_proj", "q_proj"] });
  await saveAdapter(folder, lora);
  const first = await readFile(join(folder, WEIGHTS_FILE));
  const names = parseSafetensors(first).names();
  expect(names).toEqual(names.toSorted());
});
