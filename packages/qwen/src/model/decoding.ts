import { type Device, noGrad, type Segment, scope, type Tensor } from "@tslm/tensor";
import { checkPass, type LanguageModel, type Pass, type PlacedPass } from "./pass.ts";

type Recording = ReturnType<NonNullable<Device["record"]>>["recording"];

/** A pass that was recorded: its inputs, which the next one overwrites, and what it gave. */
interface Recorded {
  readonly recording: Recording;
  readonly pass: Pass;
  readonly capacity: number;
  readonly placed: PlacedPass;
  readonly segments: Mutable<Segment>[];
  readonly result: Tensor;
}

type Mutable<T> = { -readonly [K in keyof T]: T[K] };

/** Recordings that were made for nothing before no more are made. */
const ATTEMPTS = 3;

/**
 * Passes of the same form one after another, as decoding makes them: a token for each of some sequences in a cache. On
 * devices that record calls, one is recorded and the others are that one made again, with other tokens, positions and
 * lengths: the results are the same bits, and the time between kernels is saved. All are to be run under the same `rowsAs`.
 */
export class Decoding implements Disposable {
  readonly #model: LanguageModel;
  readonly #head: (hidden: Tensor) => Tensor;
  #recorded: Recorded | undefined;
  #plain: Tensor | undefined;
  #attempts = 0;

  /** @param head what is made of the hidden states [rows, hidden] */
  constructor(model: LanguageModel, head: (hidden: Tensor) => Tensor) {
    this.#model = model;
    this.#head = head;
  }

  /** What `head` makes of the pass; it is this object's, and good until the next call. */
  run(pass: Pass): Tensor {
    checkPass(pass, this.#model.config);
    const before = this.#recorded;
    if (before && fits(before, pass)) {
      write(before, pass);
      if (before.recording.replay()) {
        this.#attempts = 0;
        return before.result;
      }
    }
    this.#forget();
    return this.#record(pass) ?? (this.#plain = this.#compute(() => this.#model.hidden(pass)));
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
  dispose(): void {
    this.#forget();
  }

  #compute(hidden: () => Tensor): Tensor {
    return noGrad(() => scope(() => this.#head(hidden()))).keep();
  }

  #record(pass: Pass): Tensor | undefined {
    const { device } = this.#model;
    if (!device.record || !this.#model.place || !this.#model.placedHidden || !isPlain(pass)) return undefined;
    if (this.#attempts++ >= ATTEMPTS) return undefined;
    const segments = pass.segments.map((segment) => ({ ...segment }));
    const placed = scope(() => this.#model.place!({ ...pass, segments }));
    for (const tensor of inputs(placed)) tensor.keep();
    try {
      const { result, recording } = device.record(() => this.#compute(() => this.#model.placedHidden!(placed)));
      const capacity = pass.cache!.store.capacity;
      this.#recorded = { recording, pass, capacity, placed, segments, result };
      return result;
    } catch (error) {
      for (const tensor of inputs(placed)) tensor.dispose();
      throw error;
    }
  }

  #forget(): void {
    this.#plain?.dispose();
    this.#plain = undefined;
    if (!this.#recorded) return;
    const { result, recording, placed } = this.#recorded;
    this.#recorded = undefined;
    result.dispose();
    recording.dispose();
    for (const tensor of inputs(placed)) tensor.dispose();
  }
}

/** Nothing in it is another with each pass but tokens, places and lengths. */
function isPlain({ cache, adapters, perturb, targets }: Pass): boolean {
  return cache !== undefined && !cache.keyRows && !adapters?.length && !perturb && !targets;
}

function inputs({ tokens, positions, cache }: PlacedPass): Tensor[] {
  return [tokens, positions, cache!.slots];
}

function fits({ pass: before, capacity }: Recorded, pass: Pass): boolean {
  return (
    isPlain(pass) &&
    pass.tokens.length === before.tokens.length &&
    pass.cache!.store === before.cache!.store &&
    pass.cache!.store.capacity === capacity &&
    pass.segments.length === before.segments.length &&
    pass.segments.every(({ query, queries }, i) => {
      return query === before.segments[i]!.query && queries === before.segments[i]!.queries;
    })
  );
}

function write({ placed, segments }: Recorded, pass: Pass): void {
  const values = [pass.tokens, pass.positions, pass.cache!.slots];
  for (const [i, { device, storage }] of inputs(placed).entries()) {
    const { buffer, byteOffset, byteLength } = values[i]!;
    device.write(storage, 0, new Uint8Array(buffer, byteOffset, byteLength));
  }
  for (const [i, { key, keys }] of pass.segments.entries()) Object.assign(segments[i]!, { key, keys });
}
