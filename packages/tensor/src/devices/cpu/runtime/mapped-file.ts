// Files mapped read-only: the pages are the system's file cache, shared by all processes that map the same file, read on
// first touch and dropped again under pressure. Kernels read them in place by address.
import { native } from "#native";
import type { MappedFile as Mapping } from "./host.ts";

const LARGEST_WINDOW = 4 * 2 ** 30;

export class MappedFile {
  readonly path: string;
  /** Length of the file in bytes. */
  readonly bytes: number;
  private mapping: Mapping | undefined;

  private constructor(path: string, mapping: Mapping) {
    this.path = path;
    this.mapping = mapping;
    this.bytes = mapping.bytes;
  }

  /** Whether this runtime can map files (Bun on Linux and macOS). */
  static readonly supported: boolean = native !== undefined;

  /** Maps a whole file of any size, private: a stray write faults instead of altering the file. */
  static open(path: string): MappedFile {
    if (!native) throw new Error(`[map file] this runtime cannot map files; read ${path} instead`);
    return new MappedFile(path, native.mapFile(path));
  }

  /** Address of the file's first byte. */
  get address(): number {
    return this.open().address;
  }

  /** Bytes `offset` to `offset + length` without a copy; at most 4 GiB a window, for windows anywhere in the file. */
  window(offset: number, length: number): Uint8Array {
    const { address } = this.open();
    if (!(offset >= 0 && length >= 0 && offset + length <= this.bytes)) {
      throw new RangeError(
        `[map file] bytes ${offset} to ${offset + length} lie outside ${this.path} (${this.bytes} bytes)`,
      );
    }
    if (length > LARGEST_WINDOW)
      throw new RangeError(`[map file] a window of ${length} bytes is over 4 GiB (${this.path})`);
    return length === 0 ? new Uint8Array(0) : new Uint8Array(native!.view(address + offset, length));
  }

  /** Unmaps the file. No window may be touched afterwards. */
  close(): void {
    if (this.mapping) native!.unmapFile(this.mapping);
    this.mapping = undefined;
  }

  private open(): Mapping {
    if (!this.mapping) throw new Error(`[map file] ${this.path} has been closed`);
    return this.mapping;
  }
}
