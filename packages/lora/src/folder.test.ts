import { expect, test } from "bun:test";
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createFolder, saveFolder } from "./folder.ts";

test("where the parent is removed while a folder is written, it is made again; one that is gone each time is told", async () => {
  const home = await mkdtemp(join(tmpdir(), "folder-"));
  const parent = join(home, "parent");
  let removals = 2;
  const content = async (path: string): Promise<void> => {
    if (removals-- > 0) await rm(parent, { recursive: true });
    await writeFile(path, "text");
  };
  try {
    await createFolder(join(parent, "made"), { "a.txt": content });
    expect(await readdir(parent)).toEqual(["made"]);
    expect(await readFile(join(parent, "made", "a.txt"), "utf8")).toBe("text");
    removals = 99;
    await expect(createFolder(join(parent, "never"), { "a.txt": content })).rejects.toThrow("cannot be written");
  } finally {
    await rm(home, { recursive: true, force: true });
  }
});

test("what a device says while a file is written is the error, not the web's error behind it", async () => {
  const home = await mkdtemp(join(tmpdir(), "folder-"));
  const lost = new Error("the GPU was lost", { cause: new DOMException("", "OperationError") });
  const content = () => Promise.reject(lost);
  try {
    await expect(createFolder(join(home, "a"), { file: content })).rejects.toBe(lost);
    await expect(saveFolder(join(home, "b"), { file: content })).rejects.toBe(lost);
  } finally {
    await rm(home, { recursive: true });
  }
});
