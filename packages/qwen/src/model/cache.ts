import { arange, type Device, defaultDevice, GradientError, isGradEnabled, noGrad, scope, Tensor } from "@tslm/tensor";
import type { ModelConfig } from "../config.ts";
import { ContextLengthError, type Pass } from "./pass.ts";

export interface CacheOptions {
  /** Rows (tokens) to make room for at first. Default 256, or fewer if the model has fewer positions. */
  capacity?: number;
  /** Stay at `capacity`: more tokens are an error instead of more memory. Default false. */
  fixed?: boolean;
  device?: Device;
}

/** What a cache must know of a model. */
export type CacheShape = Pick<
  ModelConfig,
  "maxPositionEmbeddings" | "numHiddenLayers" | "numKeyValueHeads" | "headDim"
>;

/** Keys or values of one layer. */
interface Rows {
  /** f32 [capacity, kvHeads × size] */
  readonly rows: Tensor;
  /** The same as attention reads it, [capacity, kvHeads, size]. */
  readonly heads: Tensor;
}

interface Layer {
  k: Rows;
  v: Rows;
}

/**
 * Keys and values of the tokens already seen, so that a new token costs one row: per layer two f32 matrices
 * [capacity, kvHeads × headDim]. It grows by doubling up to the model's `max_position_embeddings`; between growths a
 * decoded token allocates nothing that stays.
 *
 * {@link extend} keeps one sequence. A pass names the rows it writes (`slots`) and its segments the rows they read, so
 * several sequences can share one cache by other bookkeeping over the same rows.
 */
export class KeyValueCache {
  readonly device: Device;
  /** The most tokens it can hold. */
  readonly limit: number;
  readonly #config: CacheShape;
  readonly #fixed: boolean;
  readonly #layers: Layer[];
  #capacity: number;
  #length = 0;

  constructor(config: CacheShape, options: CacheOptions = {}) {
    const positions = config.maxPositionEmbeddings;
    const capacity = options.capacity ?? Math.min(256, positions);
    if (!Number.isSafeInteger(capacity) || capacity < 1) {
      throw new RangeError(`a cache's capacity is a whole number of tokens from 1, not ${capacity}`);
    }
    if (capacity > positions) {
      throw new ContextLengthError(capacity, positions, "the model (max_position_embeddings)");
    }
    this.device = options.device ?? defaultDevice();
    this.limit = options.fixed ? capacity : positions;
    this.#config = config;
    this.#fixed = options.fixed ?? false;
    this.#capacity = capacity;
    this.#layers = Array.from({ length: config.numHiddenLayers }, () => ({
      k: this.#rows(capacity),
      v: this.#rows(capacity),
    }));
  }

  /** Tokens held. */
  get length(): number {
    return this.#length;
  }
  /** Rows there is room for now. */
  get capacity(): number {
    return this.#capacity;
  }

  /**
   * The pass that appends `tokens` to the sequence: run it through the model exactly once.
   *
   * @throws ContextLengthError when they do not fit
   */
  extend(tokens: ArrayLike<number>): Pass {
    const before = this.#length;
    const after = before + tokens.length;
    this.reserve(after);
    this.#length = after;
    const places = Int32Array.from({ length: tokens.length }, (_, i) => before + i);
    return {
      tokens: Int32Array.from(tokens),
      positions: places,
      segments: [{ query: 0, queries: tokens.length, key: 0, keys: after }],
      cache: { store: this, slots: places },
    };
  }

  /** Makes room for `length` tokens in all. @throws ContextLengthError when they do not fit */
  reserve(length: number): void {
    if (length > this.limit) {
      throw new ContextLengthError(
        length,
        this.limit,
        this.#fixed ? "the key/value cache" : "the model (max_position_embeddings)",
      );
    }
    if (length <= this.#capacity) return;
    const capacity = Math.min(this.limit, Math.max(length, 2 * this.#capacity));
    for (const layer of this.#layers) {
      layer.k = this.#grown(layer.k, capacity);
      layer.v = this.#grown(layer.v, capacity);
    }
    this.#capacity = capacity;
  }

  /** Forgets all tokens from `length` on. */
  truncate(length: number): void {
    if (!(Number.isInteger(length) && length >= 0 && length <= this.#length)) {
      throw new RangeError(`a cache of ${this.#length} tokens cannot be cut to ${length}`);
    }
    this.#length = length;
  }

  /**
   * Writes a layer's new rows and gives all of that layer's. For the model's attention.
   *
   * @param k f32 [rows, kvHeads, size], and so v
   * @param slots i32 [rows]
   * @returns k and v [capacity, kvHeads, size]
   */
  store(layer: number, k: Tensor, v: Tensor, slots: Tensor): [Tensor, Tensor] {
    if (isGradEnabled() && (k.requiresGrad || v.requiresGrad)) {
      throw new GradientError("cache", "no gradient flows through a key/value cache; use it inside noGrad()");
    }
    const write = (from: Tensor, { rows, heads }: Rows): Tensor => {
      this.device.scatterRows(from.reshape(from.shape[0]!, rows.shape[1]!), slots, rows, "set");
      return heads;
    };
    const own = this.#layers[layer]!;
    return [write(k, own.k), write(v, own.v)];
  }

  dispose(): void {
    for (const { k, v } of this.#layers) {
      freeRows(k);
      freeRows(v);
    }
  }
  [Symbol.dispose](): void {
    this.dispose();
  }

  #rows(capacity: number): Rows {
    const { numKeyValueHeads, headDim } = this.#config;
    const rows = Tensor.empty([capacity, numKeyValueHeads * headDim], { device: this.device }).keep();
    return { rows, heads: noGrad(() => rows.reshape(capacity, numKeyValueHeads, headDim)).keep() };
  }

  #grown(old: Rows, capacity: number): Rows {
    const grown = this.#rows(capacity);
    scope(() => {
      const all = arange(this.#capacity, { device: this.device });
      this.device.scatterRows(old.rows, all, grown.rows, "set");
    });
    freeRows(old);
    return grown;
  }
}

function freeRows({ rows, heads }: Rows): void {
  rows.dispose();
  heads.dispose();
}
