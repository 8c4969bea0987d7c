import type { Device } from "./devices/device.ts";

/** Living tensors and their memory; see {@link memory}. */
export interface MemoryCount {
  /** Storages alive. */
  storages: number;
  /** Their bytes, mapped files not counted. */
  bytes: number;
  /** Largest `bytes` since the start or {@link resetPeakMemory}. */
  peakBytes: number;
  /** Bytes of storages that lie in mapped files. */
  mappedBytes: number;
}

const count: MemoryCount = { storages: 0, bytes: 0, peakBytes: 0, mappedBytes: 0 };

/** How much lives now, over all devices. A training step or a decoded token must leave it as it was. */
export function memory(): Readonly<MemoryCount> {
  return { ...count };
}

/** Starts `peakBytes` anew from what lives now. */
export function resetPeakMemory(): void {
  count.peakBytes = count.bytes;
}

/** A device's memory, owned by the tensors (and tape entries) that retain it; freed with the last of them. */
export class Storage {
  readonly device: Device;
  readonly byteLength: number;
  readonly handle: unknown;
  readonly mapped: boolean;
  #references = 1;

  private constructor(device: Device, byteLength: number, handle: unknown, mapped: boolean) {
    this.device = device;
    this.byteLength = byteLength;
    this.handle = handle;
    this.mapped = mapped;
    count.storages++;
    if (mapped) count.mappedBytes += byteLength;
    else count.bytes += byteLength;
    if (count.bytes > count.peakBytes) count.peakBytes = count.bytes;
  }

  static allocate(device: Device, byteLength: number): Storage {
    return new Storage(device, byteLength, device.allocate(byteLength), false);
  }

  /** Over bytes that never change, such as a mapped file. */
  static map(device: Device, bytes: Uint8Array, elementBytes: number): Storage {
    return new Storage(device, bytes.byteLength, device.map(bytes, elementBytes), true);
  }

  get alive(): boolean {
    return this.#references > 0;
  }

  /** Do several tensors, or a tape entry, hold it? Then it must not be written in place. */
  get shared(): boolean {
    return this.#references > 1;
  }

  retain(): this {
    this.#references++;
    return this;
  }

  release(): void {
    if (--this.#references !== 0) return;
    count.storages--;
    if (this.mapped) count.mappedBytes -= this.byteLength;
    else count.bytes -= this.byteLength;
    this.device.free(this.handle, this.byteLength);
  }
}

/** Something a scope frees at its end. The fields are the scope's: a list without memory of its own. */
export interface Tracked {
  scope: Scope | undefined;
  previous: Tracked | undefined;
  next: Tracked | undefined;
  dispose(): void;
  /** No scope frees it any more: from now on it must see to itself. */
  left(): void;
}

class Scope {
  readonly outer: Scope | undefined;
  first: Tracked | undefined = undefined;
  #last: Tracked | undefined = undefined;

  constructor(outer: Scope | undefined) {
    this.outer = outer;
  }

  add(made: Tracked): void {
    made.scope = this;
    made.previous = this.#last;
    if (this.#last) this.#last.next = made;
    else this.first = made;
    this.#last = made;
  }

  remove(made: Tracked): void {
    const { previous, next } = made;
    if (previous) previous.next = next;
    else this.first = next;
    if (next) next.previous = previous;
    else this.#last = previous;
    made.scope = undefined;
    made.previous = undefined;
    made.next = undefined;
  }

  free(): void {
    for (let made = this.first; made; made = this.first) {
      this.remove(made);
      made.dispose();
    }
  }
}

let current: Scope | undefined;

/** Hands a tensor to the innermost scope; false outside of all scopes, where it lives until disposed or collected. */
export function track(made: Tracked): boolean {
  untrack(made);
  current?.add(made);
  return current !== undefined;
}

/** Takes a tensor out of its scope, for one that must outlive it (a parameter, a cache, a gradient). */
export function untrack(kept: Tracked): void {
  kept.scope?.remove(kept);
}

function handOver(value: unknown, inner: Scope): void {
  if (value === null || typeof value !== "object") return;
  const made = value as Partial<Tracked>;
  if (made.scope === inner) {
    inner.remove(made as Tracked);
    if (inner.outer) inner.outer.add(made as Tracked);
    else (made as Tracked).left();
  } else if (Array.isArray(value)) for (const item of value) handOver(item, inner);
  else if (Object.getPrototypeOf(value) === Object.prototype) {
    for (const item of Object.values(value)) handOver(item, inner);
  }
}

/**
 * Runs `body` and frees every tensor it made, except those it returns (alone, or in arrays and plain objects), which
 * go to the enclosing scope, and those a tape still needs. `body` is synchronous: waiting happens outside, at `data()`.
 */
export function scope<T>(body: () => T): T {
  const inner = new Scope(current);
  current = inner;
  try {
    const result = body();
    if (result instanceof Promise)
      throw new TypeError("scope(): the body must be synchronous; await data() outside of it");
    handOver(result, inner);
    return result;
  } finally {
    current = inner.outer;
    inner.free();
  }
}

/** A scope that ends with its block; see {@link openScope}. */
export interface OpenScope extends Disposable {
  /** Hands a tensor on to the enclosing scope, or out of all scopes. */
  keep<T extends Tracked>(made: T): T;
  /** Frees what was made since the scope was opened. Safe to call twice. */
  end(): void;
}

/**
 * {@link scope} for `using`: tensors made from here on are freed where the block ends, except those handed on with `keep`.
 * As there, nothing is awaited in between: what other tasks make meanwhile would be freed with it.
 *
 * @example
 * function loss() {
 *   using memory = openScope();
 *   return memory.keep(mseLoss(model.forward(x), y));
 * }
 */
export function openScope(): OpenScope {
  const inner = new Scope(current);
  current = inner;
  let open = true;
  const end = (): void => {
    if (!open) return;
    open = false;
    if (isOpen(inner)) {
      // Scopes opened inside and not ended end here too.
      for (let at = current; at && at !== inner; at = at.outer) at.free();
      current = inner.outer;
    }
    inner.free();
  };
  return {
    keep(made) {
      handOver(made, inner);
      return made;
    },
    end,
    [Symbol.dispose]: end,
  };
}

function isOpen(wanted: Scope): boolean {
  for (let at = current; at; at = at.outer) if (at === wanted) return true;
  return false;
}
