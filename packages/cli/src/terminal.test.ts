import { describe, expect, test } from "bun:test";
import { PassThrough } from "node:stream";
import { EXIT, exitStatus, explain, Interrupted, UsageError } from "./errors.ts";
import { bytes, duration, Progress } from "./progress.ts";
import { table } from "./table.ts";
import { printable, shellWord, Terminal } from "./terminal.ts";

function terminal(env: Record<string, string> = {}, isTTY = true) {
  const [stdout, stderr] = [new PassThrough(), Object.assign(new PassThrough(), { isTTY })];
  return { terminal: new Terminal({ stdout, stderr }, env), said: () => String(stderr.read() ?? "") };
}

describe("Terminal", () => {
  test("colours on a screen only, and not with NO_COLOR", () => {
    const warned = (env = {}, isTTY = true) => {
      const { terminal: t, said } = terminal(env, isTTY);
      t.warn("x");
      return said();
    };
    expect(warned()).toBe("\u001b[33mwarning: x\u001b[39m\n");
    expect(warned({ NO_COLOR: "1" })).toBe("warning: x\n");
    expect(warned({ TERM: "dumb" })).toBe("warning: x\n");
    expect(warned({}, false)).toBe("warning: x\n");
  });

  test("printable() keeps text and takes what would move the cursor", () => {
    expect(printable("多大?\n\ta🙂")).toBe("多大?\n\ta🙂");
    expect(printable("\u001b[2Jx\r\u0007\u009b1m")).toBe("\ufffd[2Jx\ufffd\ufffd\ufffd1m");
  });
});

describe("table", () => {
  test("columns stay in line with Chinese text, which takes two columns a character", () => {
    const lines = table(
      ["Question", "After"],
      [
        ["免费空间有多大?", "您好!".repeat(30)],
        ["short", "x".repeat(200)],
      ],
      80,
    ).split("\n");
    expect(new Set(lines.map((line) => Bun.stringWidth(line))).size).toBe(1);
    expect(Bun.stringWidth(lines[0])).toBeLessThanOrEqual(80);
    expect(lines.join("").replaceAll(/[^您]/g, "")).toHaveLength(30);
  });
  test("characters of several code points are not cut", () => {
    const family = "👨‍👩‍👧‍👦";
    expect(table(["a"], [[family.repeat(40)]], 30).split(family)).toHaveLength(41);
  });
});

describe("Progress", () => {
  test("says nothing of what is quick", () => {
    const { terminal: t, said } = terminal({}, false);
    const progress = new Progress(t, "Working");
    progress.update(0.5, "note");
    progress.stop();
    expect(said()).toBe("");
  });
  test("durations and sizes for people", () => {
    expect([3, 99.4, 125, 3723, Number.NaN].map(duration)).toEqual(["3 s", "99 s", "2 min 05 s", "1 h 02 min", "?"]);
    expect([0, 999, 1500, 988_097_824, 2.5e12].map(bytes)).toEqual(["0 B", "999 B", "1.5 kB", "988 MB", "2.5 TB"]);
  });
});

test("shellWord() makes one word of any text, plain where it can", () => {
  const texts = ["model/mine", "免费空间有多大?", "a b", "it's", "$(x) `y`", `"it's" $HOME`, "a\\"];
  expect(texts.map(shellWord).slice(0, 3)).toEqual(["model/mine", '"免费空间有多大?"', '"a b"']);
  for (const text of texts) {
    const { stdout } = Bun.spawnSync(["sh", "-c", `printf %s ${shellWord(text)}`]);
    expect(stdout.toString()).toBe(text);
  }
});

describe("errors", () => {
  const system = (code: string, path?: string) =>
    Object.assign(new Error(`${code}: what the system says`), { code, path });
  test("the system's become sentences", () => {
    expect(explain(system("ENOSPC", "/x/y"))).toBe("/x/y: the disk is full; free some space or choose another place");
    expect(explain(system("EROFS"))).toBe("the file system is read-only; choose another place");
    expect(explain(system("EWEIRD"))).toBe("EWEIRD: what the system says");
  });
  test("a typed error is a sentence already; a mistake of the program is called one; nothing spans lines", () => {
    class TypedError extends Error {
      override readonly name = "TypedError";
      readonly code = "ENOSPC";
    }
    expect(explain(new TypedError("file: what to do"))).toBe("file: what to do");
    expect(explain(new TypeError("x is not a function"))).toStartWith("internal error: x is not a function");
    expect(explain(new Error("a\n  b"))).toBe("a b");
    expect(explain("thrown text")).toBe("failed: thrown text");
  });
  test("each has its exit status", () => {
    expect(exitStatus(new Interrupted("SIGINT"))).toBe(EXIT.interrupted);
    expect(exitStatus(new Interrupted("SIGTERM"))).toBe(EXIT.terminated);
    expect(exitStatus(new UsageError("x"))).toBe(EXIT.usage);
    expect(exitStatus(new Error("x"))).toBe(EXIT.failed);
  });
});
