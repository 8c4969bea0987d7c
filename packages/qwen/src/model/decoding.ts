import { noGrad, type Recording, type Segment, scope, type Tensor } from "@tslm/tensor";
import { checkPass, type LanguageModel, type Pass, type PlacedPass } from "./pass.ts";

type Mutable<T> = { -readonly [K in keyof T]: T[K] };

/** What passes must have in common for one to be another made again. */
type Form = Pick<Pass, "segments" | "adapters"> & {
  readonly cache: NonNullable<Pass["cache"]>;
};

/** A pass that was recorded: its inputs, which the next one overwrites, and what it gave. */
interface Recorded {
  readonly recording: Recording;
  readonly placed: PlacedPass;
  readonly segments: Mutable<Segment>[];
  readonly result: Tensor;
}

/** Recordings that could not be made again before no more are made. */
const ATTEMPTS = 3;

/**
 * Passes of the same form one after another, as decoding makes them: a token for each of some sequences in a cache. On
 * devices that record calls, one is recorded and the others are that one made again, with other tokens, positions and
 * lengths: the results are the same bits, and the time between kernels is saved. All are to be run under the same `rowsAs`.
 */
export class Decoding implements Disposable {
  readonly #model: LanguageModel;
  readonly #head: (hidden: Tensor) => Tensor;
  /** Of the last pass; undefined where it had none that comes again. */
  #form: Form | undefined;
  #recorded: Recorded | undefined;
  #plain: Tensor | undefined;
  #isFirst = true;
  #attempts = 0;

  /** @param head what is made of the hidden states [rows, hidden] */
  constructor(model: LanguageModel, head: (hidden: Tensor) => Tensor) {
    this.#model = model;
    this.#head = head;
  }

  /** What `head` makes of the pass; it is this object's, and good until the next call. */
  run(pass: Pass): Tensor {
    checkPass(pass, this.#model.config);
    const form = formOf(pass);
    const isAlike = this.#form !== undefined && form !== undefined && alike(this.#form, form);
    if (isAlike && this.#recorded && write(this.#recorded, pass) && this.#recorded.recording.replay()) {
      this.#attempts = 0;
      return this.#recorded.result;
    }
    this.#forget();
    // The first one, and later those whose form came twice: where each is another, recording would be for nothing.
    const isExpected = this.#isFirst || isAlike;
    this.#isFirst = false;
    this.#form = form;
    const recorded = form && isExpected ? this.#record(pass) : undefined;
    return recorded ?? (this.#plain = this.#compute(() => this.#model.hidden(pass)));
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
    if (!device.record || !this.#model.place || !this.#model.placedHidden || this.#attempts >= ATTEMPTS)
      return undefined;
    this.#attempts++;
    const segments = pass.segments.map((segment) => ({ ...segment }));
    const cache = { ...pass.cache!, keyRows: pass.cache!.keyRows && roomFor(pass.cache!.keyRows) };
    const placed = scope(() => this.#model.place!({ ...pass, segments, cache }));
    for (const tensor of inputs(placed)) tensor.keep();
    try {
      const { result, recording } = device.record(() => this.#compute(() => this.#model.placedHidden!(placed)));
      this.#recorded = { recording, placed, segments, result };
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

/** Undefined where more than tokens, places and lengths is another with each pass. */
function formOf({ segments, adapters = [], cache, perturb, targets }: Pass): Form | undefined {
  return cache && !perturb && !targets ? { segments, adapters, cache } : undefined;
}

/** Where a cache has grown since, the recording itself knows that its memory is gone. */
function alike(a: Form, b: Form): boolean {
  return (
    a.cache.store === b.cache.store &&
    (a.cache.keyRows === undefined) === (b.cache.keyRows === undefined) &&
    every(a.segments, b.segments, (x, y) => x.query === y.query && x.queries === y.queries) &&
    every(a.adapters!, b.adapters!, (x, y) => x.adapter === y.adapter && x.first === y.first && x.count === y.count)
  );
}

function every<T>(a: readonly T[], b: readonly T[], holds: (x: T, y: T) => boolean): boolean {
  return a.length === b.length && a.every((x, i) => holds(x, b[i]!));
}

function inputs({ tokens, positions, cache }: PlacedPass): Tensor[] {
  const { slots, keyRows } = cache!;
  return keyRows ? [tokens, positions, slots, keyRows] : [tokens, positions, slots];
}

/** Rows of keys with room for the tokens that follow. */
function roomFor(keyRows: Int32Array): Int32Array {
  const rows = new Int32Array(2 ** Math.ceil(Math.log2(keyRows.length + 64)));
  rows.set(keyRows);
  return rows;
}

/** Puts a pass in the place of the recorded one; false where there is no room for its keys. */
function write({ placed, segments }: Recorded, { tokens, positions, cache, segments: now }: Pass): boolean {
  const { slots, keyRows } = cache!;
  const values = keyRows ? [tokens, positions, slots, keyRows] : [tokens, positions, slots];
  if (keyRows && keyRows.length > placed.cache!.keyRows!.size) return false;
  for (const [i, { device, storage }] of inputs(placed).entries()) {
    const { buffer, byteOffset, byteLength } = values[i]!;
    device.write(storage, 0, new Uint8Array(buffer, byteOffset, byteLength));
  }
  for (const [i, { key, keys }] of now.entries()) Object.assign(segments[i]!, { key, keys });
  return true;
}
