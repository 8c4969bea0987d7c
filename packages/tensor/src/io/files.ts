// What safetensors and GGUF need of the file system. `#files` is this interface under Bun and Node (files.bun.ts, files.node.ts)
// and `undefined` in a browser (files.none.ts).

/** A file opened for reading. */
export interface ByteSource {
  readonly byteLength: number;
  /** Bytes that never change, without a copy where the file is mapped; they stay usable after `close`. */
  bytes(offset: number, length: number): Uint8Array;
  close(): void;
}

export interface FileSystem {
  open(path: string): ByteSource;
  /**
   * Writes pieces to a file that is either there whole or not at all: into one beside it, renamed at the end and
   * removed when anything fails. An earlier file of that name stays until the rename.
   */
  write(path: string, pieces: AsyncIterable<Uint8Array>): Promise<void>;
  /** Makes a folder, and those above it, where they are not there. */
  makeFolder(path: string): Promise<void>;
}

/** Settings of writing several tensors. */
export interface WriteOptions {
  /** Called before each tensor is written and at the end, with how many are done. */
  readonly progress?: (done: number, total: number) => void;
}
