// Node: each tensor is read into memory when it is asked for.
import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import { TensorError } from "../errors.ts";
import type { ByteSource, FileSystem } from "./files.ts";
import { explain, makeFolder, write } from "./write.ts";

/** `readSync` takes at most this many bytes. */
const LARGEST_READ = 2 ** 30;

function open(path: string): ByteSource {
  const file = explain(path, "read", () => openSync(path, "r"));
  const { size } = fstatSync(file);
  let closed = false;
  return {
    byteLength: size,
    bytes(offset, length) {
      if (closed) throw new TensorError("file", `${path} has been closed`);
      const out = new Uint8Array(length);
      for (let done = 0; done < length; ) {
        const size = Math.min(LARGEST_READ, length - done);
        const read = explain(path, "read", () => readSync(file, out, done, size, offset + done));
        if (read === 0) throw new TensorError("file", `${path} became shorter while it was read`);
        done += read;
      }
      return out;
    },
    close() {
      if (!closed) closeSync(file);
      closed = true;
    },
  };
}

export const files: FileSystem | undefined = { open, write, makeFolder };
