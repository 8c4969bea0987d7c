/** What a `TextStream` needs of a tokenizer. */
export interface TokenBytes {
  /** The UTF-8 bytes, possibly part of a character, that a token stands for. */
  tokenBytes(id: number): Uint8Array;
  isSpecial(id: number): boolean;
}

export interface TextStreamOptions {
  /** Leave control tokens such as `<|im_end|>` out of the text. Default false. */
  skipSpecialTokens?: boolean;
  /** The text ends before the first of these that it completes. Default none. */
  stop?: readonly string[];
}

/**
 * Turns token ids, one at a time, into text. A token may end inside a character (Chinese, emoji), so what cannot be
 * text yet is held back, and so is what may be the beginning of a stop string. The pieces, end included, joined are
 * exactly the decoded ids, or what of them lies before the stop string.
 *
 * @example
 * const stream = new TextStream(tokenizer, { stop: ["\n\n"] });
 * for (const id of ids) {
 *   process.stdout.write(stream.push(id));
 *   if (stream.stopped !== undefined) break;
 * }
 * process.stdout.write(stream.end());
 */
export class TextStream {
  readonly #tokens: TokenBytes;
  readonly #skipSpecial: boolean;
  readonly #stop: readonly string[];
  readonly #decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  #pending = "";
  #stopped: string | undefined;
  #ended = false;

  constructor(tokens: TokenBytes, options: TextStreamOptions = {}) {
    this.#tokens = tokens;
    this.#skipSpecial = options.skipSpecialTokens ?? false;
    this.#stop = options.stop ?? [];
    if (this.#stop.some((text) => typeof text !== "string" || text === "")) {
      throw new TypeError("a stop string must be a text of at least one character");
    }
  }

  /** The stop string that was met; after it, no more text comes. */
  get stopped(): string | undefined {
    return this.#stopped;
  }

  /** Adds a token; returns the text that is certain now, often none. */
  push(id: number): string {
    if (this.#ended) throw new Error("this TextStream has ended; make a new one for another text");
    if (this.#stopped !== undefined || (this.#skipSpecial && this.#tokens.isSpecial(id))) return "";
    return this.#take(this.#decoder.decode(this.#tokens.tokenBytes(id), { stream: true }));
  }

  /** Ends the text; returns what was held back. Bytes that never became a character come out as U+FFFD. */
  end(): string {
    if (this.#ended) return "";
    this.#ended = true;
    if (this.#stopped !== undefined) return "";
    const text = this.#take(this.#decoder.decode());
    const rest = this.#pending;
    this.#pending = "";
    return text + rest;
  }

  #take(text: string): string {
    if (this.#stop.length === 0) return text;
    this.#pending += text;

    // Of several stop strings the one completed first counts, of those the longest: so the result does not depend on
    // how the text was cut into tokens.
    let begin = -1;
    let finish = Number.POSITIVE_INFINITY;
    for (const stop of this.#stop) {
      const at = this.#pending.indexOf(stop);
      if (at < 0) continue;
      const after = at + stop.length;
      if (after < finish || (after === finish && at < begin)) {
        begin = at;
        finish = after;
        this.#stopped = stop;
      }
    }
    const ready = this.#stopped === undefined ? this.#pending.length - this.#held() : begin;
    const out = this.#pending.slice(0, ready);
    this.#pending = this.#stopped === undefined ? this.#pending.slice(ready) : "";
    return out;
  }

  /** Length of the longest end of the pending text with which a stop string begins. */
  #held(): number {
    let most = 0;
    for (const stop of this.#stop) {
      for (let n = Math.min(stop.length - 1, this.#pending.length); n > most; n--) {
        if (stop.startsWith(this.#pending.slice(-n))) most = n;
      }
    }
    return most;
  }
}
