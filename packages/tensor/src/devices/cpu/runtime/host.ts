// What the operating system must give the compiled device: pages, executable pages, calls by address.
// `#native` is this interface under Bun (see native.bun.ts) and `undefined` in Node and browsers (native.none.ts).

/** A kernel of the compiled device: works on the items `begin` (inclusive) to `end` (exclusive) of the job described at `args`. */
export type KernelFunction = (args: number, begin: number, end: number) => void;

/** The operating system's memory and machine code, reached without native add-ons. All addresses are plain numbers. */
export interface NativeHost {
  readonly platform: string;
  readonly arch: string;
  readonly pageBytes: number;
  /** Whether an arm64 processor sums products of bytes (FEAT_DotProd); false elsewhere. */
  readonly dotProduct: boolean;
  /** Maps zeroed read-write pages with an inaccessible guard page on both sides. Returns 0 when refused. */
  map(bytes: number): number;
  /** Makes pages from `map` executable and no longer writable. False when the system refuses. */
  makeExecutable(address: number, bytes: number): boolean;
  /** Unmaps what `map` gave, guard pages included. No view of it may be touched afterwards. */
  unmap(address: number, bytes: number): void;
  /** Gives the pages back to the system; they read as zero afterwards. */
  discard(address: number, bytes: number): void;
  /** An ArrayBuffer over foreign memory, at most 4 GiB; it keeps nothing alive. */
  view(address: number, bytes: number): ArrayBuffer;
  /** The address of a typed array of more than 1,000 elements (shorter ones move). */
  addressOf(array: ArrayBufferView): number;
  /** A callable for the machine code at `address`. */
  kernelAt(address: number): KernelFunction;
  /** Calls machine code `(u32, u32, pointer) -> void`; used for CPUID. */
  call(address: number, a: number, b: number, out: ArrayBufferView): void;
  /** Asks the kernel for the AMX tile registers, once per process and before threads start. False when refused. */
  requestTiles(): boolean;
  /** Text put before a worker's source so that it finds `kernelAt` on `globalThis.tensorNative`. */
  readonly workerPrelude: string;
}
