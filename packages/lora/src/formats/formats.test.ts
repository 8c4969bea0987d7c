import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Generator, openGguf, openSafetensors, type Tensor, tensor, writeGguf, writeSafetensors } from "@tslm/tensor";
import { loadAdapter, readAdapterConfig } from "../adapter.ts";
import type { LoraConfigInput } from "../config.ts";
import { AdapterError } from "../errors.ts";
import { saveFolder } from "../folder.ts";
import { type Lora, startLora } from "../lora.ts";
import { formatPrompt, promptFormat } from "../prompt.ts";
import { readPrompt } from "../prompt-file.ts";
import { perturb, TinyModel } from "../testing.ts";
import { writeLoraGguf } from "./gguf.ts";
import { mlxFiles } from "./mlx.ts";
import { targetsOf } from "./source.ts";

/** With names as llama.cpp has them. */
class NamedModel extends TinyModel {
  get gguf() {
    return {
      architecture: "tiny",
      nameOf: (name: string) => name.replace(/^model\.layers\.(\d+)\.self_attn\.(.)_proj/, "blk.$1.attn_$2"),
    };
  }
}

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "lora-formats-"));
});
afterEach(() => rm(folder, { recursive: true, force: true }));

async function adapted(config: Partial<LoraConfigInput> = {}): Promise<Lora> {
  const target_modules = ["q_proj", "v_proj"];
  const lora = await startLora(new NamedModel(), { r: 2, lora_alpha: 5, target_modules, ...config }, new Generator(1));
  await perturb(lora.parameters());
  return lora;
}

/** The change of every layer, as numbers: what an adapter is, whatever its rank, alpha and scale. */
async function changes(lora: Lora): Promise<Record<string, Float32Array>> {
  const all = [...lora.layers].map(async ([name, layer]) => {
    const delta = layer.variant.mergedWeight(layer).sub(layer.baseLayer.weight);
    return [name, (await delta.data()) as Float32Array] as const;
  });
  return Object.fromEntries(await Promise.all(all));
}

function expectNear(found: Record<string, Float32Array>, expected: Record<string, Float32Array>): void {
  expect(Object.keys(found)).toEqual(Object.keys(expected));
  for (const [name, values] of Object.entries(expected)) {
    const far = Math.max(...values.map((x, i) => Math.abs(x - found[name][i])));
    expect(far).toBeLessThan(1e-5);
    expect(Math.max(...values.map(Math.abs))).toBeGreaterThan(0.01);
  }
}

async function failure(running: Promise<unknown>): Promise<string> {
  const error = await running.catch((e: unknown) => e);
  expect(error).toBeInstanceOf(AdapterError);
  return (error as Error).message.replaceAll(folder, "DIR");
}

const configs: [string, Partial<LoraConfigInput>][] = [
  ["two targets", {}],
  ["all layers, rsLoRA", { target_modules: "all-linear", use_rslora: true }],
  ["ranks and alphas of single layers", { rank_pattern: { "0.self_attn.q_proj": 3 }, alpha_pattern: { v_proj: 0.5 } }],
  ["the last layer", { layers_to_transform: [1] }],
  ["begun from the base weight", { init_lora_weights: "olora" }],
];

describe("llama.cpp's adapters", () => {
  test.each(configs)("come back as the same change: %s", async (_, config) => {
    const lora = await adapted(config);
    const path = join(folder, "lora.gguf");
    await writeLoraGguf(path, lora, { name: "mine", baseModel: "the/base" });
    const loaded = await loadAdapter(path, new NamedModel());
    expectNear(await changes(loaded), await changes(lora));
    expect((await readAdapterConfig(path)).base_model_name_or_path).toBe("the/base");
  });

  test("have llama.cpp's names, shapes and metadata", async () => {
    const lora = await adapted();
    await writeLoraGguf(join(folder, "lora.gguf"), lora, { name: "mine", prompt: formatPrompt(promptFormat("b")) });
    using file = await openGguf(join(folder, "lora.gguf"));
    expect(Object.fromEntries([...file.metadata].slice(0, 5))).toEqual({
      "general.architecture": "tiny",
      "general.type": "adapter",
      "general.name": "mine",
      "adapter.type": "lora",
      "adapter.lora.alpha": 5,
    });
    expect(file.names()).toEqual(
      [0, 1].flatMap((i) => ["q", "v"].flatMap((x) => ["a", "b"].map((ab) => `blk.${i}.attn_${x}.weight.lora_${ab}`))),
    );
    expect(file.info("blk.0.attn_v.weight.lora_a").shape).toEqual([2, 8]);
    expect(file.info("blk.0.attn_v.weight.lora_b").shape).toEqual([4, 2]);
    // A folder with one such file in it is an adapter too, and the prompt comes along.
    expect(await readPrompt(folder)).toEqual(promptFormat("b"));
    expectNear(await changes(await loadAdapter(folder, new NamedModel())), await changes(lora));
  });

  test("without alpha take the product as it is", async () => {
    const pair = {
      a: tensor(new Float32Array(24).fill(0.5), { shape: [3, 8] }),
      b: tensor(new Float32Array(12).fill(1), { shape: [4, 3] }),
    };
    const tensors = new Map<string, Tensor>([
      ["blk.0.attn_v.weight.lora_a", pair.a],
      ["blk.0.attn_v.weight.lora_b", pair.b],
    ]);
    const metadata = new Map([
      ["general.architecture", "tiny"],
      ["general.type", "adapter"],
      ["adapter.type", "lora"],
    ]);
    await writeGguf(join(folder, "x.gguf"), tensors, metadata);
    const [change] = Object.values(await changes(await loadAdapter(join(folder, "x.gguf"), new NamedModel())));
    expect(change[0]).toBeCloseTo(1.5, 5);
  });

  test("of something else are refused", async () => {
    const path = join(folder, "x.gguf");
    const write = (entries: [string, string][]) => writeGguf(path, new Map(), new Map(entries));
    await write([
      ["general.architecture", "tiny"],
      ["general.type", "model"],
    ]);
    expect(await failure(loadAdapter(path, new NamedModel()))).toBe(
      'DIR/x.gguf: is no LoRA adapter: general.type is "model", not "adapter"; a whole model goes to --model',
    );
    const lora = await adapted();
    await writeLoraGguf(path, lora, { name: "" });
    expect(await failure(loadAdapter(path, new TinyModel()))).toContain("this model has no names for GGUF");
    class Other extends NamedModel {
      override get gguf() {
        return { ...super.gguf, architecture: "other" };
      }
    }
    expect(await failure(loadAdapter(path, new Other()))).toContain('architecture "tiny", this one is "other"');
    expect(await failure(loadAdapter(path, new NamedModel({ size: 16 })))).toContain("does not fit this model");
    const dora = await adapted({ use_dora: true });
    expect(await failure(writeLoraGguf(path, dora, { name: "" }))).toContain(
      "merge the adapter into the model instead",
    );
  });
});

describe("mlx-lm's adapters", () => {
  test.each([...configs, ["DoRA", { use_dora: true }] as (typeof configs)[0]])(
    "come back as the same change: %s",
    async (_, config) => {
      const lora = await adapted(config);
      await saveFolder(folder, mlxFiles(lora, 2, "the/base"));
      const loaded = await loadAdapter(folder, new TinyModel());
      expectNear(await changes(loaded), await changes(lora));
      expect((await readAdapterConfig(folder)).base_model_name_or_path).toBe("the/base");
    },
  );

  test("have mlx-lm's names, transposed matrices and the whole factor as scale", async () => {
    const lora = await adapted({ layers_to_transform: [1] });
    await saveFolder(folder, mlxFiles(lora, 2));
    using file = await openSafetensors(join(folder, "adapters.safetensors"));
    expect(file.names().sort()).toEqual(
      ["q", "v"].flatMap((x) => ["a", "b"].map((ab) => `model.layers.1.self_attn.${x}_proj.lora_${ab}`)),
    );
    expect(file.info("model.layers.1.self_attn.v_proj.lora_a").shape).toEqual([8, 2]);
    expect(file.info("model.layers.1.self_attn.v_proj.lora_b").shape).toEqual([2, 4]);
    expect(await Bun.file(join(folder, "adapter_config.json")).json()).toMatchObject({
      fine_tune_type: "lora",
      num_layers: 1,
      lora_parameters: { rank: 2, scale: 2.5, dropout: 0, keys: ["self_attn.q_proj", "self_attn.v_proj"] },
    });
  });

  test("that are broken are refused", async () => {
    const config = (json: object) => writeFile(join(folder, "adapter_config.json"), JSON.stringify(json));
    await config({ fine_tune_type: "full", lora_parameters: { rank: 2, scale: 1 } });
    expect(await failure(loadAdapter(folder, new TinyModel()))).toBe(
      'DIR/adapter_config.json: fine_tune_type: is "full"; of mlx-lm\'s adapters those of LoRA and DoRA are read',
    );
    await config({ lora_parameters: { rank: 2, scale: 1 } });
    expect(await failure(loadAdapter(folder, new TinyModel()))).toContain("DIR/adapters.safetensors");
    await writeSafetensors(join(folder, "adapters.safetensors"), new Map([["x", tensor([1])]]));
    expect(await failure(loadAdapter(folder, new TinyModel()))).toContain("holds no tensor that ends in .lora_a");
    await mkdir(join(folder, "empty"));
    expect(await failure(loadAdapter(join(folder, "empty"), new TinyModel()))).toContain("there is no such file");
  });
});

test("targets are told by the endings of names where that is all of them", () => {
  const names = (layers: number[], parts: string[]) =>
    layers.flatMap((i) => parts.map((part) => `model.layers.${i}.${part}`));
  expect(targetsOf(names([3, 10], ["a.q_proj", "b.up_proj"]))).toEqual({
    target_modules: ["q_proj", "up_proj"],
    layers_to_transform: [3, 10],
  });
  const odd = [...names([0], ["a.q_proj"]), ...names([1], ["a.v_proj"])];
  expect(targetsOf(odd)).toEqual({ target_modules: odd, layers_to_transform: null });
});
