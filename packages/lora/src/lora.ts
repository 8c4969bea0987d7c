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
import { type LoraConfig, type LoraConfigInput, parseLoraConfig } from "./config.ts";
import { DropoutState } from "./dropout-state.ts";
import { ConfigError, LoraError } from "./errors.ts";
import { LoraLinear } from "./lora-linear.ts";
import { rankAndAlpha, refuseAdapted, refuseUnmatched, targetLayers } from "./targets.ts";
import { DoraLora } from "./variants/dora.ts";
import { type Factors, factorsOf, fromBaseOf, pairOf } from "./variants/from-base.ts";
import { initializerOf, type LoraPair } from "./variants/init.ts";
import { PlainLora } from "./variants/plain.ts";
import { ResidualLora } from "./variants/residual.ts";
import { scalingOf } from "./variants/rslora.ts";
import type { LoraVariant } from "./variants/variant.ts";

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
  readonly #byBase: ReadonlyMap<Module, LoraLinear>;
  #attached = false;

  /** For {@link applyLora} and {@link loadAdapter}. Freezes the model and attaches the adapter. */
  constructor(model: Module, config: LoraConfig, targets: ReadonlyMap<string, LoraTarget>) {
    this.model = model;
    this.config = config;
    const state = new DropoutState(targets.size);
    this.dropout = state;
    this.layers = new Map(
      [...targets].map(([name, { layer, pair, ...rest }], index) => [
        name,
        new LoraLinear(layer, { ...pair, ...rest, dropout: config.lora_dropout, state, index }),
      ]),
    );
    this.#byBase = new Map([...this.layers.values()].map((layer) => [layer.baseLayer, layer]));
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

  /**
   * Adds to y [rows, out] what the adapter changes of what a layer of the model gave for x [rows, in], in place: for rows
   * of a pass that go through this adapter while others go through others. Nothing where the layer is not adapted.
   *
   * @param addend [rows, out], when it stands in y already
   * @param strength factor on the change
   * @throws LoraError while the adapter is attached: the model then gives adapted results itself
   */
  addTo(layer: Module, x: Tensor, y: Tensor, addend?: Tensor, strength = 1): void {
    if (this.#attached) throw new LoraError("an adapter of single rows must not be attached to the model; detach() it");
    const adapted = this.#byBase.get(layer);
    if (adapted) noGrad(() => scope(() => adapted.variant.addTo(adapted, x, y, addend, strength)));
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

  /** The adapter's tensors, which training changes, by PEFT's keys. */
  *namedParameters(): globalThis.Generator<[string, Tensor]> {
    for (const [name, layer] of this.layers) {
      for (const [ending, tensor] of layer.adapterTensors()) yield [adapterKey(name, ending), tensor];
    }
  }
  /**
   * What the files hold, by PEFT's keys: the same, but that an adapter that began as a part of the base weight is a plain
   * one there, of twice the rank (`savedConfig`). New tensors belong to the current scope.
   */
  *savedTensors(): globalThis.Generator<[string, Tensor]> {
    for (const [name, layer] of this.layers) {
      for (const [ending, tensor] of layer.savedTensors()) yield [adapterKey(name, ending), tensor];
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
  variant: LoraVariant;
}

/** A layer that a configuration matched, by name, and what the configuration says of it. */
export interface MatchedLayer {
  name: string;
  layer: Linear;
  rank: number;
  scaling: number;
}

/** The L2 norm of each tensor, [tensors.length]: one tensor to read instead of many. */
export function l2Norms(tensors: readonly Tensor[]): Tensor {
  return cat(tensors.map((t) => t.square().sum().sqrt().reshape(1)));
}

/** Rank and scaling of the layers that {@link targetLayers} found. */
export function matchedLayers(matched: ReadonlyMap<string, Linear>, config: LoraConfig): MatchedLayer[] {
  return [...matched].map(([name, layer]) => {
    const { rank, alpha } = rankAndAlpha(name, config);
    return { name, layer, rank, scaling: scalingOf(rank, alpha, config) };
  });
}

/** Attaches an adapter whose A and B (and what a variant has beside them) come from `make`. */
export function makeLora(
  model: Module,
  config: LoraConfig,
  layers: readonly MatchedLayer[],
  make: (matched: MatchedLayer) => { pair: LoraPair; variant?: LoraVariant },
): Lora {
  const targets = new Map<string, LoraTarget>();
  for (const matched of layers) {
    const { name, layer, scaling } = matched;
    targets.set(name, { layer, scaling, variant: new PlainLora(), ...make(matched) });
  }
  return new Lora(model, config, targets);
}

/** Type and place of a layer's A and B: f32 unless the layer computes in f64. */
export function pairOptions({ weight }: Linear): TensorOptions {
  return { dtype: weight.dtype === "f64" ? "f64" : "f32", device: weight.device };
}

/**
 * Freezes a model and puts new adapters around the linear layers that the configuration names. Each starts as no
 * change: the model gives what it gave before. Where the start depends on the base weights (`pissa`, `olora`), use
 * {@link startLora}.
 * @throws ConfigError for a value that cannot be used, or a target that no linear layer matches
 */
export function applyLora(model: Module, config: LoraConfigInput, random: Generator): Lora {
  const checked = parseLoraConfig(config);
  const initialize = initializerOf(checked);
  if (!initialize) {
    const init = JSON.stringify(checked.init_lora_weights);
    throw new ConfigError("init_lora_weights", `init_lora_weights ${init} reads the base weights: await startLora()`);
  }
  return makeLora(model, checked, newLayers(model, checked), ({ layer, rank, scaling }) => {
    const { inFeatures, outFeatures } = layer;
    const pair = initialize({ rank, inFeatures, outFeatures }, random, pairOptions(layer));
    return checked.use_dora ? { pair, variant: DoraLora.start(layer, pair, scaling) } : { pair };
  });
}

/** What may be told and asked while the base weights are decomposed. */
export interface StartOptions {
  signal?: AbortSignal;
  /** Layers done, and how many there are. */
  onProgress?: (done: number, total: number) => void;
}

/** {@link applyLora} for every way to begin: `pissa` and `olora` decompose the base weights first. */
export async function startLora(
  model: Module,
  config: LoraConfigInput,
  random: Generator,
  options: StartOptions = {},
): Promise<Lora> {
  const checked = parseLoraConfig(config);
  if (!fromBaseOf(checked)) return applyLora(model, config, random);
  const layers = newLayers(model, checked);
  const factors = await baseFactors(layers, checked, options);
  return makeLora(model, checked, layers, ({ name, layer }) => ({
    pair: pairOf(factors.get(name)!, pairOptions(layer), true),
    variant: residualOf(factors.get(name)!, layer),
  }));
}

function newLayers(model: Module, config: LoraConfig): MatchedLayer[] {
  const matched = targetLayers(model, config);
  refuseUnmatched(model, config);
  return matchedLayers(matched, config);
}

/** What each layer's A and B begin with where that is a part of the base weight. */
export async function baseFactors(
  layers: readonly MatchedLayer[],
  config: LoraConfig,
  { signal, onProgress }: StartOptions = {},
): Promise<Map<string, Factors>> {
  const make = fromBaseOf(config)!;
  const factors = new Map<string, Factors>();
  for (const matched of layers) {
    signal?.throwIfAborted();
    factors.set(matched.name, await factorsOf(make, matched));
    onProgress?.(factors.size, layers.length);
  }
  return factors;
}

/** The variant of a layer that began with these factors. */
export function residualOf(factors: Factors, layer: Linear): ResidualLora {
  return new ResidualLora(pairOf(factors, pairOptions(layer), false));
}
