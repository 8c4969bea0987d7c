import {
  arange,
  BLOCKS,
  type BlockType,
  BYTES,
  type Device,
  defaultDevice,
  GradientError,
  isGradEnabled,
  noGrad,
  rope,
  scope,
  Tensor,
} from "@tslm/tensor";
import type { ModelConfig } from "../config.ts";
import { ContextLengthError, type Pass } from "./pass.ts";

/**
 * How keys and values are kept: `f32`, or `q8_0`, a signed byte an element and a half-precision scale for 32 neighbours in a
 * head, as llama.cpp names it; 34 bytes where f32 takes 128.
 */
export const CACHE_TYPES = ["f32", "q8_0"] as const;
export type CacheType = (typeof CACHE_TYPES)[number];

export interface CacheOptions {
  /** Rows (tokens) to make room for at first. Default 256, or fewer if the model has fewer positions. */
  capacity?: number;
  /** Stay at `capacity`: more tokens are an error instead of more memory. Default false. */
  fixed?: boolean;
  device?: Device;
  /** Default `f32`. */
  type?: CacheType;
  /** `model.keyBiases`: with `q8_0` as near as rounding allows only with them. */
  keyBiases?: KeyBiases;
}

/**
 * The part of a model's keys that no text changes: the bias of each layer's key projection. In Qwen2.5 it is far larger than
 * what differs between keys (up to 158 in the 0.5B model), and blocks round in proportion to their largest number, so a
 * cache of blocks keeps keys without it.
 */
export interface KeyBiases {
  /** f32 [kvHeads × headDim] of each layer. */
  readonly layers: readonly Tensor[];
  /** f32 [headDim / 2], radians per position. */
  readonly frequencies: Tensor;
}

/** Keys and values of a layer as attention reads them, [capacity, kvHeads, size] in the cache's type. */
export interface StoredKeys {
  readonly k: Tensor;
  readonly v: Tensor;
  /** What the keys lack, as `attention` takes it. */
  readonly keyBias?: { readonly bias: Tensor; readonly rotations: Tensor };
}

/** What a cache must know of a model. */
export type CacheShape = Pick<
  ModelConfig,
  "maxPositionEmbeddings" | "numHiddenLayers" | "numKeyValueHeads" | "headDim"
>;

/** Where a pass writes its keys and values, and reads those of earlier tokens. */
export interface CacheStore {
  /** Rows there is room for now. */
  readonly capacity: number;
  /** Whether keys lack a part that depends on their position, see {@link StoredKeys.keyBias}. */
  readonly addsToKeys?: boolean;
  /**
   * Writes a layer's new rows and gives all of that layer's. For the model's attention.
   *
   * @param k f32 [rows, kvHeads, size], and so v
   * @param slots i32 [rows]
   * @param positions i32 [rows]. In a cache with a bias of keys, key j of a segment stands at position j
   */
  store(layer: number, k: Tensor, v: Tensor, slots: Tensor, positions: Tensor): StoredKeys;
}

/** Keys or values of one layer. */
interface Rows {
  /** [capacity, kvHeads × size] */
  readonly rows: Tensor;
  /** The same as attention reads it, [capacity, kvHeads, size]. */
  readonly heads: Tensor;
}

interface Layer {
  k: Rows;
  v: Rows;
}

/**
 * The memory of a cache: per layer two matrices [capacity, kvHeads × headDim], for keys and values. Who holds which row is
 * for its owner to know. With `q8_0` a row is rounded once, when it is written, on its own: all that read it later, also those
 * of its own pass, read the same numbers.
 */
export class CacheRows implements CacheStore {
  readonly #config: CacheShape;
  readonly #device: Device;
  readonly #type: CacheType;
  readonly #layers: readonly Layer[];
  readonly #keyBiases: KeyBiases | undefined;
  /** f32 [capacity, headDim]: cosines and sines of each position. */
  #rotations: Tensor | undefined;
  #capacity: number;

  /** @throws RangeError where heads or the device do not take the type */
  constructor(
    config: CacheShape,
    capacity: number,
    device: Device,
    { type = "f32", keyBiases }: Pick<CacheOptions, "type" | "keyBiases"> = {},
  ) {
    if (type !== "f32") checkBlocks(config, device, type);
    this.#config = config;
    this.#device = device;
    this.#type = type;
    this.#keyBiases = type === "f32" ? undefined : keyBiases;
    this.#capacity = capacity;
    this.#layers = Array.from({ length: config.numHiddenLayers }, () => ({
      k: this.#make(capacity),
      v: this.#make(capacity),
    }));
    this.#rotate();
  }

  /** Bytes that a row takes in all layers. */
  static rowBytes({ numHiddenLayers, numKeyValueHeads, headDim }: CacheShape, type: CacheType = "f32"): number {
    return BYTES[type] * 2 * numHiddenLayers * numKeyValueHeads * headDim;
  }

  get capacity(): number {
    return this.#capacity;
  }
  get addsToKeys(): boolean {
    return this.#keyBiases !== undefined;
  }

  store(layer: number, k: Tensor, v: Tensor, slots: Tensor, positions: Tensor): StoredKeys {
    if (isGradEnabled() && (k.requiresGrad || v.requiresGrad)) {
      throw new GradientError("cache", "no gradient flows through a key/value cache; use it inside noGrad()");
    }
    const write = (from: Tensor, { rows, heads }: Rows): Tensor => {
      scope(() => {
        this.#device.scatterRows(this.#rounded(from.reshape(from.shape[0]!, rows.shape[1]!)), slots, rows, "set");
      });
      return heads;
    };
    const own = this.#layers[layer]!;
    if (!this.#keyBiases) return { k: write(k, own.k), v: write(v, own.v) };
    const { layers, frequencies } = this.#keyBiases;
    const bias = layers[layer]!.reshape(1, k.shape[1]!, k.shape[2]!);
    const common = rope(bias.expand(...k.shape), positions, frequencies);
    return {
      ...{ k: write(k.sub(common), own.k), v: write(v, own.v) },
      keyBias: { bias: bias.reshape(k.shape[1]!, k.shape[2]!), rotations: this.#rotations! },
    };
  }

  /** Makes room for `capacity` rows; what the present ones hold stays. */
  grow(capacity: number): void {
    const grown = (old: Rows): Rows => {
      const rows = this.#make(capacity);
      scope(() => {
        const all = arange(this.#capacity, { device: this.#device });
        this.#device.scatterRows(old.rows, all, rows.rows, "set");
      });
      freeRows(old);
      return rows;
    };
    for (const layer of this.#layers) {
      layer.k = grown(layer.k);
      layer.v = grown(layer.v);
    }
    this.#capacity = capacity;
    this.#rotate();
  }

  /** Copies rows to others, of all layers; both lists are alike long. */
  copy(from: readonly number[], to: readonly number[]): void {
    const index = (rows: readonly number[]): Tensor =>
      Tensor.from(rows, [rows.length], { dtype: "i32", device: this.#device });
    noGrad(() =>
      scope(() => {
        const [source, target] = [index(from), index(to)];
        for (const { rows } of this.#layers.flatMap(({ k, v }) => [k, v])) {
          scope(() => {
            const copied = this.#empty(from.length);
            this.#device.gatherRows(rows, source, copied);
            this.#device.scatterRows(copied, target, rows, "set");
          });
        }
      }),
    );
  }

  dispose(): void {
    for (const { k, v } of this.#layers) {
      freeRows(k);
      freeRows(v);
    }
    this.#rotations?.dispose();
  }

  /** Angles of as many positions as there are rows: no sequence is longer. */
  #rotate(): void {
    if (!this.#keyBiases) return;
    this.#rotations?.dispose();
    const { frequencies } = this.#keyBiases;
    const { headDim } = this.#config;
    const positions = Math.min(this.#capacity, this.#config.maxPositionEmbeddings);
    // What (1, 0) is rotated to.
    const ones = Float32Array.from({ length: headDim }, (_, i) => (i < headDim / 2 ? 1 : 0));
    this.#rotations = noGrad(() =>
      scope(() => {
        const units = Tensor.from(ones, [1, 1, headDim], { device: this.#device }).expand(positions, 1, headDim);
        const places = arange(positions, { device: this.#device });
        return rope(units, places, frequencies).reshape(positions, headDim);
      }),
    ).keep();
  }

  #make(capacity: number): Rows {
    const { numKeyValueHeads, headDim } = this.#config;
    const rows = this.#empty(capacity).keep();
    return { rows, heads: noGrad(() => rows.reshape(capacity, numKeyValueHeads, headDim)).keep() };
  }

  #empty(rows: number): Tensor {
    const { numKeyValueHeads, headDim } = this.#config;
    return Tensor.empty([rows, numKeyValueHeads * headDim], { dtype: this.#type, device: this.#device });
  }

  /** x f32 [rows, kvHeads × headDim] in the cache's type. */
  #rounded(x: Tensor): Tensor {
    if (this.#type === "f32") return x;
    const rounded = this.#empty(x.shape[0]!);
    this.#device.quantize(x, rounded);
    return rounded;
  }
}

function checkBlocks({ headDim }: CacheShape, device: Device, type: BlockType): void {
  const { elements } = BLOCKS[type];
  if (!device.readsBlockKeys) {
    throw new RangeError(`a cache of ${type} needs the cpu device, not ${device.info.name}; use f32`);
  }
  if (headDim % elements !== 0) {
    throw new RangeError(`a cache of ${type} needs heads of whole blocks of ${elements}, not of ${headDim}; use f32`);
  }
}

function freeRows({ rows, heads }: Rows): void {
  rows.dispose();
  heads.dispose();
}

/**
 * Keys and values of the tokens already seen, so that a new token costs one row: per layer two matrices
 * [capacity, kvHeads × headDim]. It grows by doubling up to the model's `max_position_embeddings`; between growths a
 * decoded token allocates nothing that stays.
 *
 * {@link extend} keeps one sequence. A pass names the rows it writes (`slots`) and its segments the rows they read, so
 * several sequences can share one cache by other bookkeeping over the same rows.
 */
export class KeyValueCache implements CacheStore {
  readonly device: Device;
  /** The most tokens it can hold. */
  readonly limit: number;
  readonly #fixed: boolean;
  readonly #rows: CacheRows;
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
    this.#fixed = options.fixed ?? false;
    this.#rows = new CacheRows(config, capacity, this.device, options);
  }

  /** Tokens held. */
  get length(): number {
    return this.#length;
  }
  /** Rows there is room for now. */
  get capacity(): number {
    return this.#rows.capacity;
  }
  get addsToKeys(): boolean {
    return this.#rows.addsToKeys;
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
    if (length <= this.capacity) return;
    this.#rows.grow(Math.min(this.limit, Math.max(length, 2 * this.capacity)));
  }

  /** Forgets all tokens from `length` on. */
  truncate(length: number): void {
    if (!(Number.isInteger(length) && length >= 0 && length <= this.#length)) {
      throw new RangeError(`a cache of ${this.#length} tokens cannot be cut to ${length}`);
    }
    this.#length = length;
  }

  /** See {@link CacheStore.store}. */
  store(layer: number, k: Tensor, v: Tensor, slots: Tensor, positions: Tensor): StoredKeys {
    return this.#rows.store(layer, k, v, slots, positions);
  }

  dispose(): void {
    this.#rows.dispose();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}
