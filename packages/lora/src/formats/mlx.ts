/**
 * mlx-lm's adapters (github.com/ml-explore/mlx-lm, `tuner/lora.py`, `tuner/utils.py`): `adapters.safetensors` with
 * `NAME.lora_a` [in, r] and `NAME.lora_b` [r, out], PEFT's matrices transposed, and an `adapter_config.json` whose `scale` is the whole
 * factor: y = W·x + scale·B·A·x, where PEFT has α/r.
 */

import { join } from "node:path";
import {
  cat,
  noGrad,
  openSafetensors,
  type SafetensorsFile,
  scope,
  type Tensor,
  TensorError,
  writeSafetensors,
  zeros,
} from "@tslm/tensor";
import { z } from "zod";
import { parseLoraConfig } from "../config.ts";
import { AdapterError } from "../errors.ts";
import { checkJson, type FileContent } from "../folder.ts";
import { adapterKey, type Lora } from "../lora.ts";
import type { LoraLinear } from "../lora-linear.ts";
import { MAGNITUDE } from "../variants/dora.ts";
import { type AdapterTensors, type ForeignAdapter, literal, savedRank, targetsOf, usual } from "./source.ts";

export const MLX_WEIGHTS_FILE = "adapters.safetensors";

const positive = z.number().positive();
const mlxConfigSchema = z.looseObject({
  model: z.string().nullish(),
  fine_tune_type: z
    .enum(["lora", "dora"], {
      error: ({ input }) => `is ${JSON.stringify(input)}; of mlx-lm's adapters those of LoRA and DoRA are read`,
    })
    .default("lora"),
  num_layers: z.int().nullish(),
  lora_parameters: z.looseObject({
    rank: z.int().min(1),
    scale: positive,
    dropout: z.number().min(0).lt(1).default(0),
    keys: z.array(z.string()).nullish(),
  }),
});

/** Is this the `adapter_config.json` of mlx-lm, not of PEFT? */
export function isMlxConfig(json: unknown): boolean {
  if (typeof json !== "object" || json === null || "peft_type" in json) return false;
  return "lora_parameters" in json || "fine_tune_type" in json;
}

const ENDINGS: Readonly<Record<string, string>> = { lora_a: "lora_A.weight", lora_b: "lora_B.weight", m: MAGNITUDE };

/** PEFT's view of the file's tensors. */
class MlxTensors implements AdapterTensors {
  readonly file: string;
  readonly #source: SafetensorsFile;
  /** Names in the file by PEFT's keys; one that is no part of LoRA keeps its own. */
  readonly #names: ReadonlyMap<string, string>;
  constructor(source: SafetensorsFile) {
    this.file = source.file;
    this.#source = source;
    this.#names = new Map(
      source.names().map((name) => {
        const [, layer, ending] = /^(.+)\.(lora_[ab]|m)$/.exec(name) ?? [];
        return [layer === undefined ? name : adapterKey(layer, ENDINGS[ending]), name];
      }),
    );
  }
  names(): string[] {
    return [...this.#names.keys()];
  }
  has(name: string): boolean {
    return this.#names.has(name);
  }
  info(name: string) {
    const { dtype, shape } = this.#source.info(this.#names.get(name) ?? name);
    return { dtype, shape: shape.toReversed() };
  }
  tensor(name: string, options: Parameters<AdapterTensors["tensor"]>[1]): Tensor {
    const t = this.#source.tensor(this.#names.get(name) ?? name, options);
    return t.rank === 2 ? t.T : t;
  }
  close(): void {
    this.#source.close();
  }
  /** Layers that have an A, and its rank. */
  *ranks(): Generator<[string, number]> {
    for (const name of this.#source.names()) {
      if (name.endsWith(".lora_a")) yield [name.slice(0, -".lora_a".length), this.#source.info(name).shape.at(-1) ?? 0];
    }
  }
}

/**
 * Opens the adapter in a folder that mlx-lm wrote.
 * @param json its `adapter_config.json`
 * @throws AdapterError when a file is missing or broken
 */
export async function openMlxAdapter(folder: string, json: unknown): Promise<ForeignAdapter> {
  const configPath = join(folder, "adapter_config.json");
  const { model, fine_tune_type: kind, lora_parameters: parameters } = checkJson(mlxConfigSchema, json, configPath);
  const path = join(folder, MLX_WEIGHTS_FILE);
  const source = await openSafetensors(path).catch((cause) => {
    throw cause instanceof TensorError ? new AdapterError(path, cause.message, { cause }) : cause;
  });
  try {
    const tensors = new MlxTensors(source);
    const ranks = new Map(tensors.ranks());
    if (ranks.size === 0)
      throw new AdapterError(path, "holds no tensor that ends in .lora_a; it is no adapter of mlx-lm");
    const r = usual(ranks.values());
    const odd = [...ranks].filter(([, rank]) => rank !== r);
    // The scale is the same for every rank.
    const config = parseLoraConfig({
      r,
      lora_alpha: parameters.scale * r,
      lora_dropout: parameters.dropout,
      use_dora: kind === "dora",
      rank_pattern: Object.fromEntries(odd.map(([name, rank]) => [literal(name), rank])),
      alpha_pattern: Object.fromEntries(odd.map(([name, rank]) => [literal(name), parameters.scale * rank])),
      ...targetsOf([...ranks.keys()]),
      base_model_name_or_path: model ?? null,
    });
    return { config, tensors };
  } catch (error) {
    source.close();
    throw error;
  }
}

/** The layer of a name such as `model.layers.3.mlp.up_proj`, and the rest of the name below it. */
function layerOf(name: string): [number, string] | undefined {
  const [, layer, rest] = /\blayers\.(\d+)\.(.+)$/.exec(name) ?? [];
  return layer === undefined ? undefined : [Number(layer), rest];
}

/**
 * The files of an adapter as mlx-lm writes them. It knows one rank and one scale: where layers differ, smaller ranks are filled up
 * with zeros and B takes the difference of scales.
 *
 * @param layerCount layers of the model, of which mlx-lm adapts the last ones
 * @throws AdapterError for layers that mlx-lm could not adapt
 */
export function mlxFiles(lora: Lora, layerCount: number, baseModel?: string): Record<string, FileContent> {
  const layers = [...lora.layers];
  const rank = Math.max(...layers.map(([, layer]) => savedRank(layer)));
  const scale = usual(layers.map(([, { scaling }]) => scaling));
  const places = layers.map(([name]) => {
    const place = layerOf(name);
    if (place === undefined) throw new AdapterError(name, "mlx-lm adapts the layers of blocks alone, not this one");
    return place;
  });
  const first = Math.min(...places.map(([layer]) => layer));
  const config = {
    model: baseModel ?? lora.config.base_model_name_or_path,
    fine_tune_type: lora.config.use_dora ? "dora" : "lora",
    num_layers: layerCount - first,
    lora_parameters: {
      rank,
      scale,
      dropout: lora.config.lora_dropout,
      keys: [...new Set(places.map(([, rest]) => rest))],
    },
  };
  return {
    [MLX_WEIGHTS_FILE]: async (path) => {
      const tensors = new Map<string, Tensor>();
      try {
        for (const [name, layer] of layers) {
          const [a, b] = mlxPair(layer, rank, scale);
          tensors.set(`${name}.lora_a`, a).set(`${name}.lora_b`, b);
          for (const [, magnitude] of layer.variant.adapterTensors()) tensors.set(`${name}.m`, magnitude.alias());
        }
        await writeSafetensors(path, tensors, { format: "mlx" });
      } finally {
        for (const t of tensors.values()) t.dispose();
      }
    },
    "adapter_config.json": `${JSON.stringify(config, null, 4)}\n`,
  };
}

/** A [in, rank] and B [rank, out], for the common rank and scale. */
function mlxPair(layer: LoraLinear, rank: number, scale: number): [Tensor, Tensor] {
  const made = scope(() =>
    noGrad(() => {
      const { loraA, loraB } = layer.variant.savedPair(layer);
      const missing = rank - loraA.shape[0];
      return [filled(loraA.T, 1, missing), filled(loraB.mul(layer.scaling / scale).T, 0, missing)] as const;
    }),
  );
  return [made[0].keep(), made[1].keep()];
}

/** A copy with `count` zeros more along a dimension. */
function filled(t: Tensor, dim: number, count: number): Tensor {
  if (count === 0) return t.clone();
  const shape = t.shape.map((n, i) => (i === dim ? count : n));
  return cat([t, zeros(shape, { dtype: t.dtype, device: t.device })], dim);
}
