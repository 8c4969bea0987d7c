import { afterAll, describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Terminal } from "../terminal.ts";
import { FolderLock } from "./lock.ts";

const home = mkdtempSync(join(tmpdir(), "lock-"));
afterAll(() => rmSync(home, { recursive: true }));

const context = { signal: new AbortController().signal, terminal: new Terminal() };
context.terminal.say = () => {};

/** A process that runs some code with `take` and `folder`. */
function other(folder: string, code: string) {
  const source = `
    import { FolderLock } from ${JSON.stringify(join(import.meta.dir, "lock.ts"))};
    import { readFileSync, writeFileSync } from "node:fs";
    const folder = ${JSON.stringify(folder)};
    const context = { signal: new AbortController().signal, terminal: { say() {} } };
    const take = () => FolderLock.take(context, folder, 60_000);
    ${code}`;
  return Bun.spawn([process.execPath, "-e", source], { stdout: "pipe", stderr: "inherit" });
}

describe("a folder that one works on", () => {
  test("is refused to others, in this process and in another, and free when it is let go", async () => {
    const folder = join(home, "mine");
    const sentence = `another training or search is writing into ${folder} now`;
    {
      await using _ = await FolderLock.take(context, folder);
      await expect(FolderLock.take(context, folder, 0)).rejects.toThrow(sentence);
      const tried = other(folder, "await FolderLock.take(context, folder, 0).catch((e) => console.log(e.message));");
      expect(await new Response(tried.stdout).text()).toStartWith(sentence);
      // Neither has broken the lock by trying.
      await expect(FolderLock.take(context, folder, 0)).rejects.toThrow(sentence);
    }
    await using _ = await FolderLock.take(context, folder, 0);
  });

  test("is free when its process was killed", async () => {
    const folder = join(home, "killed");
    const holder = other(folder, "globalThis.lock = await take(); console.log('has it'); setInterval(() => {}, 1000);");
    await holder.stdout.getReader().read();
    await expect(FolderLock.take(context, folder, 0)).rejects.toThrow("another training or search");
    holder.kill("SIGKILL");
    await holder.exited;
    expect(readdirSync(home)).toContain(".killed.lock");
    await using _ = await FolderLock.take(context, folder, 0);
  });

  test("is waited for by one after another: none gets in beside another, also while lock files come and go", async () => {
    const [folder, count] = [join(home, "shared"), join(home, "count")];
    writeFileSync(count, "0");
    const code = `
      for (let i = 0; i < 2000; i++) {
        await using _ = await take();
        const seen = Number(readFileSync(${JSON.stringify(count)}, "utf8"));
        writeFileSync(${JSON.stringify(count)}, String(seen + 1));
      }`;
    const all = [1, 2, 3, 4, 5].map(() => other(folder, code));
    expect(await Promise.all(all.map(({ exited }) => exited))).toEqual([0, 0, 0, 0, 0]);
    expect(readFileSync(count, "utf8")).toBe("10000");
  }, 60_000);

  test("leaves nothing behind, not even the folders it lay in", async () => {
    const folder = join(home, "deep/er/out");
    {
      await using _ = await FolderLock.take(context, folder);
      expect(readdirSync(join(home, "deep/er"))).toEqual([".out.lock"]);
    }
    expect(existsSync(join(home, "deep"))).toBe(false);
  });

  test("where no file can be made: a sentence", async () => {
    await expect(FolderLock.take(context, "/proc/out", 0)).rejects.toThrow("/proc: no file can be made here");
  });

  test("Ctrl-C is heard while one waits", async () => {
    const folder = join(home, "waited");
    await using _ = await FolderLock.take(context, folder);
    const abort = new AbortController();
    const waiting = FolderLock.take({ ...context, signal: abort.signal }, folder, 60_000);
    abort.abort(new Error("enough"));
    await expect(waiting).rejects.toThrow("enough");
  });
});
