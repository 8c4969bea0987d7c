import { mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { TuneError } from "../state.ts";

/** Names that a file of an adapter or a checkpoint has. */
const NAME = /^[\w-][\w.-]*(\/[\w-][\w.-]*){0,3}$/;

/** The files of a folder, and of the folders in it, as one compressed archive (tar, gzip). */
export async function packFolder(folder: string, takes: (name: string) => boolean = () => true): Promise<Uint8Array> {
  const files: Record<string, Uint8Array> = {};
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
    const path = join(entry.parentPath, entry.name);
    const name = path.slice(folder.length + 1).replaceAll("\\", "/");
    if (entry.isFile() && NAME.test(name) && takes(name)) files[name] = await readFile(path);
  }
  return new Bun.Archive(files, { compress: "gzip" }).bytes();
}

/**
 * Makes a folder of an archive's files; one that is there is replaced.
 * @throws TuneError for a name that leads out of the folder
 */
export async function unpackFolder(bytes: Uint8Array, folder: string): Promise<void> {
  const files = await new Bun.Archive(bytes).files();
  for (const name of files.keys()) {
    if (!NAME.test(name))
      throw new TuneError(`an archive from the queue holds ${JSON.stringify(name)}, which is no file of an adapter`);
  }
  await rm(folder, { recursive: true, force: true });
  await mkdir(folder, { recursive: true });
  for (const [name, file] of files) {
    const path = join(folder, name);
    await mkdir(dirname(path), { recursive: true });
    await writeFile(path, await file.bytes());
  }
}
