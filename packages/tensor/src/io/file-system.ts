import { files } from "#files";
import { TensorError } from "../errors.ts";
import type { ByteSource, FileSystem } from "./files.ts";

/** @throws TensorError in a browser, saying what to do `instead` */
export function fileSystem(op: string, instead: string): FileSystem {
  if (!files) throw new TensorError(op, `a browser has no files; ${instead}`);
  return files;
}

/** A whole file. @throws TensorError when it cannot be read, naming why */
export function readFile(op: string, instead: string, path: string): Uint8Array {
  const source: ByteSource = fileSystem(op, instead).open(path);
  try {
    return source.bytes(0, source.byteLength);
  } finally {
    source.close();
  }
}
