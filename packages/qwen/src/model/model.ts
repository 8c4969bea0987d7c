import {
  checkpoint,
  type Device,
  Embedding,
  full,
  type Generator,
  isGradEnabled,
  Linear,
  linearCrossEntropy,
  Module,
  noGrad,
  parameter,
  RMSNorm,
  randn,
  scope,
  Tensor,
  type TensorOptions,
} from "@tslm/tensor";
import type { ModelConfig } from "../config.ts";
import { GGUF_ARCHITECTURE, ggufName } from "../gguf/names.ts";
import { activationBytes } from "./activations.ts";
import type { KeyBiases } from "./cache.ts";
import { type PassSize, passFlops } from "./cost.ts";
import { below, DecoderLayer, type LayerPass, type ParameterSource } from "./layers.ts";
import { parameterShapes } from "./parameters.ts";
import { checkPass, type LanguageModel, type Pass, type PlacedPass } from "./pass.ts";
import { ropeFrequencies } from "./rope.ts";

/** Sees the residual stream [rows, hidden] after the embedding (0) and after each layer (1, 2, …). */
export type LayerObserver = (x: Tensor, depth: number) => void;

/** Embedding, blocks and final norm: transformers' `Qwen2Model`. */
export class Decoder extends Module {
  embed_tokens: Embedding;
  layers: DecoderLayer[];
  norm: RMSNorm;

  constructor(config: ModelConfig, source: ParameterSource) {
    super();
    this.embed_tokens = new Embedding(source("embed_tokens.weight"));
    this.layers = Array.from(
      { length: config.numHiddenLayers },
      (_, i) => new DecoderLayer(config, i, below(source, `layers.${i}`)),
    );
    this.norm = new RMSNorm(source("norm.weight"), config.rmsNormEps);
  }

  /**
   * tokens i32 [rows] → [rows, hidden] after the final norm. Each layer's temporaries are freed when it ends.
   *
   * @param options.recompute keep only each layer's input for the gradient and run the layer again when it is needed
   * @param options.perturb changes the embeddings [rows, hidden] first
   */
  forward(
    tokens: Tensor,
    pass: LayerPass,
    { recompute = false, perturb, observe }: { recompute?: boolean; observe?: LayerObserver } & Pick<Pass, "perturb">,
  ): Tensor {
    const embedded = this.embed_tokens.forward(tokens);
    let x = perturb ? perturb(embedded) : embedded;
    observe?.(x, 0);
    this.layers.forEach((layer, i) => {
      const before = x;
      // The rerun comes after the pass's own scope has ended, so the positions are handed over as an input.
      const run = (input: Tensor, positions: Tensor): Tensor => layer.forward(input, { ...pass, positions });
      const rerun = recompute && isGradEnabled() && (before.requiresGrad || layer.trainableParameters().length > 0);
      x = scope(() => (rerun ? checkpoint(run, before, pass.positions) : run(before, pass.positions)));
      before.dispose();
      observe?.(x, i + 1);
    });
    return this.norm.forward(x);
  }
}

/**
 * A Qwen2 or Qwen2.5 language model: transformers' `Qwen2ForCausalLM`, with the same parameter names. Results belong to
 * the current `scope()`.
 *
 * @example
 * const loss = scope(() => model.loss(passOf([ids], [nextTokens(ids)])));
 * loss.backward();
 */
export class QwenModel extends Module implements LanguageModel {
  model: Decoder;
  /** The output projection; undefined where it is the embedding itself (`tie_word_embeddings`). */
  lm_head: Linear | undefined;
  readonly config: ModelConfig;
  /** Keep only each layer's input for the gradient: less memory for one more forward pass. */
  recompute = false;
  readonly #frequencies: Tensor;
  #keyBiases: readonly Tensor[] | undefined;

  /** @param source gives each parameter by its full name; {@link init} and `loadModel` make models */
  constructor(config: ModelConfig, source: ParameterSource) {
    super();
    this.config = config;
    this.model = new Decoder(config, below(source, "model"));
    this.lm_head = config.tieWordEmbeddings ? undefined : new Linear(source("lm_head.weight"));
    this.#frequencies = ropeFrequencies(config, { device: this.device }).keep();
  }

  /**
   * A model to train from scratch, as transformers initialises it: matrices normal with `std`, biases 0, norms 1. All
   * parameters are trainable f32.
   *
   * @param options `std` is transformers' `initializer_range`, 0.02; f64 is for gradient checks on the reference device
   */
  static init(
    config: ModelConfig,
    random: Generator,
    { std = 0.02, ...options }: Pick<TensorOptions, "device" | "dtype"> & { std?: number } = {},
  ): QwenModel {
    const shapes = parameterShapes(config);
    return new QwenModel(config, (name) => {
      const shape = shapes.get(name)!;
      return parameter(() => {
        if (shape.length === 2) return randn(shape, random.next(), options).mul(std);
        return full(shape, name.endsWith(".bias") ? 0 : 1, options);
      });
    });
  }

  /**
   * Memory that a training pass over `rows` rows needs besides the weights, in bytes, about, with the layers as they are
   * now (adapted or not) and with or without {@link recompute}.
   */
  activationBytes(rows: number, recompute = this.recompute): number {
    return activationBytes(this.model, this.config, rows, recompute);
  }

  /** Floating-point operations of a training pass, or of a pass forward alone, about, with the layers as they are now. */
  passFlops(size: PassSize, backward: boolean, recompute = this.recompute): number {
    return passFlops(this.model.layers, this.config, size, { backward, recompute });
  }

  get device(): Device {
    return this.model.embed_tokens.weight.device;
  }

  /** See {@link KeyBiases}. Made once, and freed with the model. */
  get keyBiases(): KeyBiases {
    this.#keyBiases ??= this.model.layers.map(({ self_attn }) => {
      return noGrad(() => scope(() => self_attn.keyBias.to("f32").clone())).keep();
    });
    return { layers: this.#keyBiases, frequencies: this.#frequencies };
  }

  /** What GGUF files call this architecture and its parameters; adapters in that format are read and written with it. */
  get gguf(): { readonly architecture: string; nameOf(parameter: string): string } {
    return { architecture: GGUF_ARCHITECTURE, nameOf: ggufName };
  }

  /**
   * Hidden states after the final norm [rows, hidden].
   *
   * @throws RangeError naming the row if a token or position is outside of the model
   */
  hidden(pass: Pass, observe?: LayerObserver): Tensor {
    checkPass(pass, this.config);
    return scope(() => this.placedHidden(this.place(pass), observe));
  }

  /** The pass with its lists on the device. */
  place({ tokens, positions, segments, cache, adapters, perturb }: Pass): PlacedPass {
    return {
      tokens: this.#rows(tokens),
      positions: this.#rows(positions),
      frequencies: this.#frequencies,
      segments,
      cache: cache && {
        store: cache.store,
        slots: this.#rows(cache.slots),
        keyRows: cache.keyRows && this.#rows(cache.keyRows),
      },
      adapters,
      perturb,
    };
  }

  /** {@link hidden} of a pass that was checked (`checkPass`) and placed. */
  placedHidden({ tokens, perturb, ...pass }: PlacedPass, observe?: LayerObserver): Tensor {
    return scope(() => this.model.forward(tokens, pass, { recompute: this.recompute, perturb, observe }));
  }

  /** Scores of every token of the vocabulary, [rows, vocabSize], from hidden states [rows, hidden]. */
  logits(hidden: Tensor): Tensor {
    return (this.lm_head ?? new Linear(this.headWeight)).forward(hidden);
  }

  /**
   * Σ scale · −log P(target), a scalar. Only rows with a target go through the head, whose logits are never written
   * out whole.
   *
   * @throws RangeError if no row has a target
   */
  loss(pass: Pass): Tensor {
    const { targets } = pass;
    if (!targets) throw new RangeError("a loss needs the pass's targets");
    const active = Int32Array.from(targets.keys()).filter((i) => targets[i]! >= 0);
    if (active.length === 0) throw new RangeError("no row of the pass has a target, so there is no loss");
    return scope(() => {
      const hidden = this.hidden(pass);
      const picked = active.length === targets.length ? hidden : hidden.indexSelect(this.#rows(active));
      const scale = Float32Array.from(active, (i) => pass.scale?.[i] ?? 1 / active.length);
      return linearCrossEntropy(
        picked,
        this.headWeight,
        this.#rows(active.map((i) => targets[i]!)),
        Tensor.from(scale, [scale.length], { device: this.device }),
        { labelSmoothing: pass.labelSmoothing, correct: pass.correct },
      );
    });
  }

  /**
   * −log P(target) of each row, f32 [rows], 0 where the target is negative; for evaluation, without a gradient.
   *
   * @param hidden [rows, hidden]
   * @param targets [rows]
   */
  tokenLosses(hidden: Tensor, targets: Int32Array): Tensor {
    const loss = Tensor.empty([targets.length], { device: this.device });
    scope(() => {
      this.device.linearCrossEntropy({
        hidden,
        weight: this.headWeight,
        targets: this.#rows(targets),
        scale: full([targets.length], 1, { device: this.device }),
        loss,
      });
    });
    return loss;
  }

  /** The output projection's matrix [vocabSize, hidden]. */
  get headWeight(): Tensor {
    const head: Module = this.lm_head ?? this.model.embed_tokens;
    if (head instanceof Linear || head instanceof Embedding) return head.weight;
    throw new TypeError(`the output projection was replaced by a ${head.constructor.name}; only a plain Linear works`);
  }

  override dispose(): void {
    super.dispose();
    this.#frequencies.dispose();
    for (const bias of this.#keyBiases ?? []) bias.dispose();
  }

  #rows(values: Int32Array): Tensor {
    return Tensor.from(values, [values.length], { dtype: "i32", device: this.device });
  }
}
