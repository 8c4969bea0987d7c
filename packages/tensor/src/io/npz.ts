import { FormatError } from "../errors.ts";
import type { Tensor } from "../tensor.ts";
import { fileSystem, readFile } from "./file-system.ts";
import type { WriteOptions } from "./files.ts";
import { type NpyOptions, parseNpy, serializeNpy } from "./npy.ts";
import { readZip, writeZip, type ZipEntry } from "./zip.ts";

/** Settings of {@link writeNpz}. */
export interface NpzOptions extends WriteOptions {
  /** Packed as NumPy's `savez_compressed` does, false. */
  readonly compress?: boolean;
}

/**
 * The arrays of an `.npz` file by name, from its bytes: NumPy's `load`. Each is read as {@link parseNpy} says.
 * @throws FormatError naming the byte at which archive or array is not what the format says
 */
export async function parseNpz(
  bytes: Uint8Array,
  { device, name = "bytes" }: NpyOptions = {},
): Promise<Map<string, Tensor>> {
  const found = new Map<string, Tensor>();
  for (const entry of await readZip(bytes, name)) {
    if (!entry.name.endsWith(".npy")) throw new FormatError("npz", `${name}: ${entry.name} is not an array`);
    found.set(entry.name.slice(0, -4), parseNpy(entry.bytes, { device, name: `${name}: ${entry.name}` }));
  }
  return found;
}

async function* arrays(tensors: ReadonlyMap<string, Tensor>, progress: NpzOptions["progress"]) {
  let done = 0;
  for (const [name, t] of tensors) {
    progress?.(done++, tensors.size);
    yield { name: `${name}.npy`, bytes: await serializeNpy(t) } satisfies ZipEntry;
  }
  progress?.(done, tensors.size);
}

/** The bytes of an `.npz` file; see {@link writeNpz}. */
export async function serializeNpz(
  tensors: ReadonlyMap<string, Tensor>,
  { compress = false, progress }: NpzOptions = {},
): Promise<Uint8Array<ArrayBuffer>> {
  const pieces: BlobPart[] = [];
  for await (const piece of writeZip(arrays(tensors, progress), compress)) pieces.push(piece.slice());
  return new Uint8Array(await new Blob(pieces).arrayBuffer());
}

/** Reads an `.npz` file; see {@link parseNpz}. @throws TensorError when it cannot be read */
export async function readNpz(path: string, options: Omit<NpyOptions, "name"> = {}): Promise<Map<string, Tensor>> {
  return parseNpz(readFile("readNpz", "fetch the bytes and give them to parseNpz", path), { ...options, name: path });
}
/**
 * Writes tensors to an `.npz` file, NumPy's archive of arrays (`savez`): there whole or not at all, one tensor in memory at a
 * time. @throws TensorError naming why it cannot
 */
export async function writeNpz(
  path: string,
  tensors: ReadonlyMap<string, Tensor>,
  { compress = false, progress }: NpzOptions = {},
): Promise<void> {
  const system = fileSystem("writeNpz", "take the bytes from serializeNpz");
  await system.write(path, writeZip(arrays(tensors, progress), compress));
}
