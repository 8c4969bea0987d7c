import { describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, readdirSync, readFileSync, realpathSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { writeAtomically } from "./atomic.ts";
import { dataErrorOf, useFolder } from "./testing.ts";

const folder = useFolder();
const content = (path: string) => readFileSync(path, "utf8");

test("makes the folder, writes UTF-8 in pieces, and gives what the producer returns", async () => {
  const path = folder.path("a/b/out.txt");
  const piece = "飞跃云".repeat(10_000);
  const result = await writeAtomically(path, async (write) => {
    for (let i = 0; i < 10; i++) await write(piece);
    return "done";
  });
  expect(result).toBe("done");
  expect(content(path)).toBe(piece.repeat(10));
  expect(readdirSync(dirname(path))).toEqual(["out.txt"]);
});

test("the earlier file stays until the new one is whole", async () => {
  const path = folder.file("earlier.txt", "old");
  await writeAtomically(path, async (write) => {
    await write("new".repeat(50_000));
    expect(content(path)).toBe("old");
  });
  expect(content(path)).toBe("new".repeat(50_000));
});

test("a failure leaves the earlier file and nothing beside it", async () => {
  mkdirSync(folder.path("fail"));
  const path = folder.file("fail/out.txt", "old");
  const failing = writeAtomically(path, async (write) => {
    await write("new".repeat(50_000));
    throw new Error("no more");
  });
  expect(failing).rejects.toThrow("no more");
  await failing.catch(() => {});
  expect(content(path)).toBe("old");
  expect(readdirSync(folder.path("fail"))).toEqual(["out.txt"]);
});

test("a failure removes the folders made for the file, and only those", async () => {
  mkdirSync(folder.path("there"));
  const failing = writeAtomically(folder.path("there/new/newer/out.txt"), () => Promise.reject(new Error("no")));
  await failing.catch(() => {});
  expect(readdirSync(folder.path("there"))).toEqual([]);
});

test("an abort at the last moment still writes nothing", async () => {
  const controller = new AbortController();
  const path = folder.path("aborted/out.txt");
  const aborted = writeAtomically(path, async () => controller.abort(), controller.signal);
  const reason = await aborted.catch((error) => error);
  expect(reason.name).toBe("AbortError");
  expect(existsSync(dirname(path))).toBe(false);
});

test("through a symbolic link the file it points to is written", async () => {
  const target = folder.file("target.txt", "old");
  const link = folder.path("link.txt");
  symlinkSync(target, link);
  await writeAtomically(link, (write) => write("new"));
  expect(content(target)).toBe("new");
  expect(realpathSync(link)).toBe(realpathSync(target));
});

describe("a path that cannot be written is named", () => {
  const refuse = (path: string) => dataErrorOf(() => writeAtomically(path, (write) => write("x")));

  test("a folder", async () => {
    mkdirSync(folder.path("folder"));
    const sentence = "cannot be written: this is a folder; give the path of a file in it";
    expect((await refuse(folder.path("folder"))).sentence).toBe(`folder: ${sentence}`);
    expect((await refuse(folder.path("not-yet/"))).message).toEndWith(sentence);
  });

  test("below a file", async () => {
    folder.file("plain", "x");
    for (const path of ["plain/out.txt", "plain/deeper/out.txt"]) {
      const error = await refuse(folder.path(path));
      expect(error.code).toBe("output");
      expect(error.message).toEndWith(
        `${path}: cannot be written: a part of this path is a file, not a folder; check the path`,
      );
    }
  });

  test("a device, which a rename would replace", async () => {
    expect((await refuse("/dev/null")).sentence).toBe(
      "null: cannot be written: this is a pipe or a device; give a file's path",
    );
  });

  test("a name too long", async () => {
    const error = await refuse(folder.path("x".repeat(300)));
    expect(error.message).toEndWith("the name is too long for the file system; choose a shorter one");
  });

  test.skipIf(process.platform === "win32")("a file beyond the size that the system allows", async () => {
    // A limit of the shell's stands for a full disk: the write fails midway, with its own code.
    const script = folder.file(
      "large.ts",
      `import { writeAtomically } from ${JSON.stringify(`${import.meta.dir}/atomic.ts`)};
      await writeAtomically(process.argv[2], async (write) => {
        for (let i = 0; i < 100; i++) await write("x".repeat(100_000));
      }).catch((error) => console.log(error.code, error.message));`,
    );
    writeFileSync(folder.path("limit.sh"), `trap '' XFSZ; ulimit -f 2000; exec "$@"`);
    const path = folder.path("large/out.txt");
    const child = Bun.spawnSync(["sh", folder.path("limit.sh"), process.execPath, script, path]);
    expect(child.stdout.toString()).toBe(
      `output ${path}: cannot be written: the file grew beyond the size that the system allows; raise the limit or choose another place\n`,
    );
    expect(existsSync(dirname(path))).toBe(false);
  });
});
