// Bun: files are mapped, so weights are the system's file cache, shared by all processes and read on first touch.
import { closeSync, fstatSync, openSync, type Stats, statSync } from "node:fs";
import { TensorError } from "../errors.ts";
import type { ByteSource, FileSystem } from "./files.ts";
import { explain, makeFolder, write } from "./write.ts";

/** A mapping's offset must be a multiple of the page size; this is one everywhere. */
const PAGE = 65536;
/** One view ends at 4 GiB. */
const LARGEST_VIEW = 2 ** 32;

/**
 * Mapped whole, or piece by piece where it is longer than a view can be. Private, because Bun's default would carry a
 * stray write into the model's file. A mapping goes with the last view of it.
 */
function open(path: string): ByteSource {
  // Held open, so that its number is not given to another file and a replaced one is noticed: mapping goes by path.
  const file = explain(path, "read", () => openSync(path, "r"));
  const opened = fstatSync(file);
  let closed = false;
  const checkSame = (): void => {
    if (same(opened, statSync(path))) return;
    throw new TensorError("file", `${path} was replaced while it was open; open it again`);
  };
  const map = (offset: number, length: number): Uint8Array =>
    explain(path, "map", () => {
      checkSame();
      const bytes = Bun.mmap(path, { shared: false, offset, size: length });
      checkSame();
      return bytes;
    });
  try {
    if (!opened.isFile()) throw new TensorError("file", `cannot read ${path}: it is not a file`);
    const { size } = opened;
    const whole = size > 0 && size < LARGEST_VIEW ? map(0, size) : undefined;
    return {
      byteLength: size,
      bytes(offset, length) {
        if (closed) throw new TensorError("file", `${path} has been closed`);
        if (length === 0) return new Uint8Array(0);
        if (whole) return whole.subarray(offset, offset + length);
        const lead = offset % PAGE;
        if (lead + length >= LARGEST_VIEW) {
          throw new TensorError("file", `${path}: ${length} bytes cannot be mapped at once, 4 GiB can`);
        }
        return map(offset - lead, lead + length).subarray(lead);
      },
      close() {
        if (!closed) closeSync(file);
        closed = true;
      },
    };
  } catch (error) {
    closeSync(file);
    throw error;
  }
}

function same(a: Stats, b: Stats): boolean {
  return a.dev === b.dev && a.ino === b.ino && a.size === b.size && a.mtimeMs === b.mtimeMs;
}

export const files: FileSystem | undefined = { open, write, makeFolder };
