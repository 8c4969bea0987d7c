/** What a fuzzer does with one parser. Each file of `targets/` exports one. */
export interface FuzzTarget {
  /** Inputs to begin with: good ones, and such as have once been a fault. */
  seeds(): Iterable<string | Uint8Array> | Promise<Iterable<string | Uint8Array>>;
  /** Words of the format, put into inputs as they are. */
  readonly words?: readonly string[];
  /** Longest input in bytes. Default 2048. */
  readonly maxLength?: number;
  /**
   * Reads an input.
   *
   * @throws for a fault of the parser: another error than its documented one, or a result that contradicts itself
   */
  fuzz(data: Uint8Array): void | Promise<void>;
}

/** Runs what reads an input; its documented errors are a good answer. */
export function allowing<T>(errors: readonly (new (...args: never[]) => Error)[], read: () => T): T | undefined {
  try {
    return read();
  } catch (error) {
    if (errors.some((kind) => error instanceof kind)) return undefined;
    throw error;
  }
}

/** As `allowing`, of what takes its time. */
export async function allowingLater<T>(
  errors: readonly (new (...args: never[]) => Error)[],
  read: () => Promise<T>,
): Promise<T | undefined> {
  try {
    return await read();
  } catch (error) {
    if (errors.some((kind) => error instanceof kind)) return undefined;
    throw error;
  }
}

/** @throws where a result contradicts itself */
export function check(isTrue: boolean, what: () => string): void {
  if (!isTrue) throw new Error(what());
}

const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
/** An input as text; broken UTF-8 becomes U+FFFD. */
export const textOf = (data: Uint8Array): string => decoder.decode(data);

/** An input of several texts, parted by NUL. */
export function partsOf(data: Uint8Array, count: number): string[] {
  const parts = textOf(data).split("\0");
  return Array.from({ length: count }, (_, i) => parts[i] ?? "");
}
