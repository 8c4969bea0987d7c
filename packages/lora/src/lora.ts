import {
  cat,
  type Generator,
  type Linear,
  type Module,
  noGrad,
  scope,
  type Tensor,
  type TensorOptions,
} from "@tslm/tensor";
import { initializerOf, type LoraConfig, type LoraConfigInput, parseLoraConfig, scalingOf } from "./config.ts";
import { DropoutState } from "./dropout-state.ts";
import { LoraLinear } from "./lora-linear.ts";
import { rankAndAlpha, refuseAdapted, refuseUnmatched, targetLayers } from "./targets.ts";
import type { LoraPair } from "./variants/init.ts";
import { PlainLora } from "./variants/plain.ts";

/** What PEFT puts before a module's name in its files. */
const KEY_PREFIX = "base_model.model.";

/** The key of a layer's tensor in PEFT's files. */
export function adapterKey(layer: string, ending: string): string {
  return `${KEY_PREFIX}${layer}.${ending}`;
}

/** Numbers of parameters. */
export interface ParameterCount {
  trainable: number;
  /** Those of the base model and of the adapter. */
  all: number;
}

/**
 * One adapter on one model: the layers that carry it and what can be done with them. Several adapters of one model
 * live side by side, one of them attached at a time; attaching is a swap of layers and costs no memory.
 */
export class Lora {
  readonly model: Module;
  readonly config: LoraConfig;
  /** Adapted layers by the names of the linear layers they stand for. */
  readonly layers: ReadonlyMap<string, LoraLinear>;
  readonly dropout: DropoutState;
  /** Tensors of the base that were trainable before. */
  readonly #thawed: readonly Tensor[];
  #attached = false;

  /** For {@link applyLora} and {@link loadAdapter}. Freezes the model and attaches the adapter. */
  constructor(model: Module, config: LoraConfig, targets: ReadonlyMap<string, LoraTarget>) {
    this.model = model;
    this.config = config;
    const state = new DropoutState(targets.size);
    this.dropout = state;
    this.layers = new Map(
      [...targets].map(([name, { layer, pair, scaling }], index) => [
        name,
        new LoraLinear(layer, {
          ...pair,
          scaling,
          dropout: config.lora_dropout,
          state,
          index,
          variant: new PlainLora(),
        }),
      ]),
    );
    this.#thawed = model.trainableParameters();
    model.requiresGrad(false);
    this.attach();
  }

  get attached(): boolean {
    return this.#attached;
  }
  /** Puts the adapted layers into the model. @throws LoraError while another adapter is attached */
  attach(): void {
    if (this.#attached) return;
    refuseAdapted(this.model);
    for (const [name, layer] of this.layers) this.model.replace(name, layer);
    this.#attached = true;
  }
  /** Puts the base layers back; the adapter lives on. */
  detach(): void {
    if (!this.#attached) return;
    for (const [name, layer] of this.layers) this.model.replace(name, layer.baseLayer);
    this.#attached = false;
  }
  /** Detaches the adapter, frees it, and makes trainable again what it froze. */
  remove(): void {
    this.detach();
    for (const layer of this.layers.values()) layer.dispose();
    for (const t of this.#thawed) if (!t.disposed) t.requiresGrad = true;
  }
  [Symbol.dispose](): void {
    this.remove();
  }

  /** While off, the model is its base: every adapted layer does what its base layer does. */
  get enabled(): boolean {
    return [...this.layers.values()].every((layer) => layer.enabled);
  }
  set enabled(on: boolean) {
    for (const layer of this.layers.values()) layer.enabled = on;
  }

  get merged(): boolean {
    return [...this.layers.values()].some((layer) => layer.merged);
  }
  /** Computes with merged weights, f32, kept beside the base's: faster per token, 4·in·out bytes a layer. */
  merge(): void {
    for (const layer of this.layers.values()) layer.merge();
  }
  /** Frees the merged weights; the model is bit for bit what it was before {@link merge}. */
  unmerge(): void {
    for (const layer of this.layers.values()) layer.unmerge();
  }

  /** The adapter's tensors by PEFT's keys. */
  *namedParameters(): globalThis.Generator<[string, Tensor]> {
    for (const [name, layer] of this.layers) {
      for (const [ending, tensor] of layer.adapterTensors()) yield [adapterKey(name, ending), tensor];
    }
  }
  /** What training changes. */
  parameters(): Tensor[] {
    return [...this.namedParameters()].map(([, tensor]) => tensor);
  }
  /** L2 norm of each of the adapter's tensors by its key. */
  async norms(): Promise<Record<string, number>> {
    const norms = scope(() => noGrad(() => l2Norms(this.parameters())));
    const values = await norms.data();
    norms.dispose();
    return Object.fromEntries([...this.namedParameters()].map(([key], i) => [key, values[i]]));
  }

  count(): ParameterCount {
    const adapter = this.parameters().reduce((n, t) => n + t.size, 0);
    const model = this.model.parameters().reduce((n, t) => n + t.size, 0);
    return { trainable: adapter, all: model + (this.#attached ? 0 : adapter) };
  }
  /** PEFT's line: `trainable params: 540,672 || all params: 494,573,440 || trainable%: 0.1093`. */
  summary(): string {
    const { trainable, all } = this.count();
    const share = ((100 * trainable) / all).toFixed(4);
    const [t, a] = [trainable, all].map((n) => n.toLocaleString("en-US"));
    return `trainable params: ${t} || all params: ${a} || trainable%: ${share}`;
  }
}

/** A layer to adapt, and with what. */
export interface LoraTarget {
  layer: Linear;
  pair: LoraPair;
  scaling: number;
}

/** The L2 norm of each tensor, [tensors.length]: one tensor to read instead of many. */
export function l2Norms(tensors: readonly Tensor[]): Tensor {
  return cat(tensors.map((t) => t.square().sum().sqrt().reshape(1)));
}

/** Attaches an adapter whose A and B come from `make`. `matched` is what {@link targetLayers} found. */
export function makeLora(
  model: Module,
  config: LoraConfig,
  matched: ReadonlyMap<string, Linear>,
  make: (name: string, layer: Linear, rank: number) => LoraPair,
): Lora {
  const targets = new Map<string, LoraTarget>();
  for (const [name, layer] of matched) {
    const { rank, alpha } = rankAndAlpha(name, config);
    targets.set(name, { layer, pair: make(name, layer, rank), scaling: scalingOf(rank, alpha, config) });
  }
  return new Lora(model, config, targets);
}

/** Type and place of a layer's A and B: f32 unless the layer computes in f64. */
export function pairOptions({ weight }: Linear): TensorOptions {
  return { dtype: weight.dtype === "f64" ? "f64" : "f32", device: weight.device };
}

/**
 * Freezes a model and puts new adapters around the linear layers that the configuration names. Each starts as no
 * change: the model gives what it gave before.
 * @throws ConfigError for a value that cannot be used, or a target that no linear layer matches
 */
export function applyLora(model: Module, config: LoraConfigInput, random: Generator): Lora {
  const checked = parseLoraConfig(config);
  const matched = targetLayers(model, checked);
  refuseUnmatched(model, checked);
  const initialize = initializerOf(checked);
  return makeLora(model, checked, matched, (_, layer, rank) => {
    const { inFeatures, outFeatures } = layer;
    return initialize({ rank, inFeatures, outFeatures }, random, pairOptions(layer));
  });
}
