import { afterAll, afterEach, beforeAll, describe, expect, test } from "bun:test";
import { mkdir, mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { noGrad, scope, Tensor, writeSafetensors } from "@tslm/tensor";
import { type ModelConfig, parseGenerationConfig } from "../config.ts";
import { loadGenerationConfig, loadModelConfig } from "../config-files.ts";
import { ModelFileError } from "../errors.ts";
import type { QwenModel } from "./model.ts";
import { parameterShapes } from "./parameters.ts";
import { passOf } from "./pass.ts";
import { saveModel } from "./save.ts";
import { distance, livingMemory, settledMemory, tinyConfig, tinyModel } from "./testing.ts";
import { loadModel } from "./weights.ts";

let root: string;
let count = 0;
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "tslm-weights-"));
});
afterAll(() => rm(root, { recursive: true }));
async function folder(): Promise<string> {
  const dir = join(root, String(count++));
  await mkdir(dir);
  return dir;
}

const open: { dispose(): void }[] = [];
function own<T extends { dispose(): void }>(made: T): T {
  open.push(made);
  return made;
}
afterEach(() => {
  for (const made of open.splice(0)) made.dispose();
});

const plain = parseGenerationConfig({}, tinyConfig());
const ids = [1, 2, 3, 4];

async function logits(model: QwenModel): Promise<number[]> {
  const t = own(noGrad(() => scope(() => model.logits(model.hidden(passOf([ids]))))));
  return Array.from(await t.data());
}

/** The model's parameters as they are, after `change`, in files by `shardOf`. */
async function write(
  dir: string,
  model: QwenModel,
  { change = (_: Map<string, Tensor>): void => {}, shardOf = (_: string): string => "model.safetensors" } = {},
): Promise<Map<string, string>> {
  const tensors = new Map(model.namedParameters());
  change(tensors);
  const places = new Map([...tensors.keys()].map((name) => [name, shardOf(name)]));
  for (const file of new Set(places.values())) {
    await writeSafetensors(join(dir, file), new Map([...tensors].filter(([name]) => places.get(name) === file)));
  }
  return places;
}

async function failure(dir: string, config: ModelConfig): Promise<ModelFileError> {
  const error = await loadModel(dir, config).then(
    () => undefined,
    (e) => e,
  );
  expect(error).toBeInstanceOf(ModelFileError);
  return error;
}

describe("a saved model", () => {
  for (const tied of [true, false]) {
    test(`comes back as its bf16 self, ${tied ? "tied" : "own"} head`, async () => {
      const config = tinyConfig({ tie_word_embeddings: tied });
      const model = own(tinyModel(config));
      const dir = await folder();
      const before = await settledMemory();
      await saveModel(dir, model, parseGenerationConfig({ temperature: 0.5, eos_token_id: [49, 3] }, config));
      expect(livingMemory()).toEqual(before);
      expect((await readdir(dir)).sort()).toEqual(["config.json", "generation_config.json", "model.safetensors"]);

      const again = await loadModelConfig(dir);
      expect({ ...again, dtype: undefined }).toEqual({ ...config, dtype: undefined });
      expect(again.dtype).toBe("bfloat16");
      const generation = await loadGenerationConfig(dir, again);
      expect(generation).toEqual(parseGenerationConfig({ temperature: 0.5, eos_token_id: [49, 3] }, config));

      const loaded = own(await loadModel(dir, again));
      for (const [name, t] of loaded.namedParameters()) {
        expect([name, t.dtype, t.storage.mapped]).toEqual([name, t.rank === 1 ? "f32" : "bf16", t.rank !== 1]);
      }
      expect(loaded.trainableParameters()).toEqual([]);
      for (const t of model.parameters()) {
        const rounded = own(t.detach().to("bf16").to("f32"));
        t.device.write(t.storage, 0, new Uint8Array(Float32Array.from(await rounded.data()).buffer));
      }
      expect(await logits(loaded)).toEqual(await logits(model));

      // What was loaded can be saved again, and still be used.
      const copy = await folder();
      await saveModel(copy, loaded, generation);
      const bytes = (path: string): Promise<Uint8Array> => Bun.file(join(path, "model.safetensors")).bytes();
      expect(await bytes(copy)).toEqual(await bytes(dir));
      expect(await logits(loaded)).toEqual(await logits(model));
    });
  }

  test("loads from shards, f32, with what old files hold besides", async () => {
    const model = own(tinyModel());
    const dir = await folder();
    const places = await write(dir, model, {
      change(tensors) {
        tensors.set("model.layers.0.self_attn.rotary_emb.inv_freq", own(Tensor.from([1, 2, 3], [3])));
        tensors.set("lm_head.weight", model.headWeight);
      },
      shardOf: (name) => (name.includes("layers.1") ? "model-00002-of-2.safetensors" : "model-00001-of-2.safetensors"),
    });
    await writeFile(
      join(dir, "model.safetensors.index.json"),
      JSON.stringify({ metadata: { total_size: 1 }, weight_map: Object.fromEntries(places) }),
    );
    const seen: number[][] = [];
    const loaded = own(await loadModel(dir, model.config, { onProgress: (n, of) => seen.push([n, of]) }));
    expect(await logits(loaded)).toEqual(await logits(model));
    expect(seen.at(-1)).toEqual([26, 26]);
  });

  test("loads from f16", async () => {
    const model = own(tinyModel());
    const dir = await folder();
    const header: Record<string, unknown> = {};
    const parts: Uint8Array[] = [];
    let at = 0;
    for (const [name, t] of model.namedParameters()) {
      const bytes = new Uint8Array(Float16Array.from(await t.data()).buffer);
      header[name] = { dtype: "F16", shape: t.shape, data_offsets: [at, (at += bytes.length)] };
      parts.push(bytes);
    }
    const json = new TextEncoder().encode(JSON.stringify(header));
    const length = new Uint8Array(new BigUint64Array([BigInt(json.length)]).buffer);
    await writeFile(join(dir, "model.safetensors"), Buffer.concat([length, json, ...parts]));
    const loaded = own(await loadModel(dir, model.config));
    expect(distance(await logits(loaded), await logits(model))).toBeLessThan(0.05);
    expect(loaded.parameters().every((t) => t.dtype === "f32")).toBe(true);
  });
});

describe("weights that do not fit", () => {
  test("are all named in one error, with the file", async () => {
    const model = own(tinyModel());
    const dir = await folder();
    await write(dir, model, {
      change(tensors) {
        tensors.delete("model.norm.weight");
        tensors.delete("model.layers.1.mlp.up_proj.weight");
        tensors.set("model.layers.0.self_attn.q_proj.bias", own(Tensor.from([1, 2], [2])));
        tensors.set(
          "model.layers.0.input_layernorm.weight",
          own(Tensor.from(new Array(24).fill(1), [24], { dtype: "i32" })),
        );
        tensors.set("visual.patch.weight", own(Tensor.from([1], [1])));
      },
    });
    const before = await settledMemory();
    const error = await failure(dir, model.config);
    expect(error.file).toBe(join(dir, "model.safetensors"));
    expect(error.message).toEndWith(
      "model.safetensors: its tensors do not fit config.json: " +
        "model.layers.0.self_attn.q_proj.bias is [2], not [24]; " +
        "model.layers.0.input_layernorm.weight is I32, not one of BF16, F32, F16; " +
        "missing model.layers.1.mlp.up_proj.weight; missing model.norm.weight; unexpected visual.patch.weight",
    );
    expect(livingMemory()).toEqual(before);
  });

  test("of another model: the count of what is not told", async () => {
    const dir = await folder();
    await saveModel(dir, own(tinyModel()), plain);
    const error = await failure(dir, tinyConfig({ num_hidden_layers: 9 }));
    expect(error.message).toContain("missing model.layers.2.self_attn.q_proj.weight");
    expect(error.message).toEndWith("; and 44 more");
  });

  test("that are not there", async () => {
    const dir = await folder();
    expect((await failure(dir, tinyConfig())).message).toContain("model.safetensors: does not exist, nor does");
  });
});

describe("a shard index", () => {
  const names = [...parameterShapes(tinyConfig()).keys()];
  const index = async (weight_map: unknown): Promise<string> => {
    const dir = await folder();
    await writeFile(join(dir, "model.safetensors.index.json"), JSON.stringify({ weight_map }));
    return dir;
  };
  for (const name of [
    "../secret.safetensors",
    "/etc/x.safetensors",
    "a/b.safetensors",
    "..\\x.safetensors",
    "C:x.safetensors",
    ".hidden.safetensors",
    "x.safetensors\u0000",
    "config.json",
    "",
  ]) {
    test(`cannot lead out of the folder: ${JSON.stringify(name)}`, async () => {
      const error = await failure(await index({ [names[0]]: name }), tinyConfig());
      expect(error.message).toContain("must be the plain name of a .safetensors file in the same folder, but is");
      expect(error.field).toBe(`weight_map.${names[0]}`);
    });
  }
  test("names a file that is not there", async () => {
    const error = await failure(await index({ [names[0]]: "model-1.safetensors" }), tinyConfig());
    expect(error.message).toContain("model-1.safetensors: does not exist, but model.safetensors.index.json names it");
  });
  test("puts a tensor into a file that lacks it", async () => {
    const model = own(tinyModel());
    const dir = await folder();
    const places = await write(dir, model, {
      change: (tensors) => tensors.delete("model.norm.weight"),
      shardOf: () => "a.safetensors",
    });
    places.set("model.norm.weight", "a.safetensors");
    await writeFile(
      join(dir, "model.safetensors.index.json"),
      JSON.stringify({ weight_map: Object.fromEntries(places) }),
    );
    expect((await failure(dir, model.config)).message).toEndWith("missing model.norm.weight (not in a.safetensors)");
  });
  test("is no index", async () => {
    expect((await failure(await index(5), tinyConfig())).message).toContain("must map tensor names to file names");
  });
});

test("loading stops at a signal and leaves nothing", async () => {
  const dir = await folder();
  const model = own(tinyModel());
  await saveModel(dir, model, plain);
  const before = await settledMemory();
  const stop = new AbortController();
  const onProgress = (n: number): void => {
    if (n === 5) stop.abort(new Error("enough"));
  };
  await expect(loadModel(dir, model.config, { signal: stop.signal, onProgress })).rejects.toThrow("enough");
  expect(livingMemory()).toEqual(before);
});
