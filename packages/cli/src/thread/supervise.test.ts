import { describe, expect, test } from "bun:test";
import { EventEmitter } from "node:events";
import { PassThrough } from "node:stream";
import { EXIT, Interrupted } from "../errors.ts";
import { Terminal } from "../terminal.ts";
import type { FromThread, ToThread } from "./protocol.ts";
import { supervise } from "./supervise.ts";

class FakeThread extends EventEmitter {
  readonly received: ToThread[] = [];
  postMessage(message: ToThread): void {
    this.received.push(message);
  }
  says(message: FromThread): void {
    this.emit("message", message);
  }
}

function supervised({ isTTY = false, graceMs = 5 } = {}) {
  const thread = new FakeThread();
  const [stdout, stderr] = [new PassThrough(), Object.assign(new PassThrough(), { isTTY })];
  const supervision = supervise(thread, new Terminal({ stdout, stderr }, {}), graceMs);
  const all = (stream: PassThrough) => String(stream.read(stream.readableLength) ?? "");
  const written = () => ({ stdout: all(stdout), stderr: all(stderr) });
  return { thread, written, ...supervision };
}

const SIGINT = new Interrupted("SIGINT");

describe("supervise", () => {
  test("writes what the thread writes and ends with its status", async () => {
    const { thread, written, status } = supervised();
    thread.says({ kind: "write", where: "stdout", text: "result" });
    thread.says({ kind: "write", where: "stderr", text: "for people" });
    thread.says({ kind: "end", status: 1 });
    thread.emit("exit");
    expect(await status).toBe(1);
    expect(written()).toEqual({ stdout: "result", stderr: "for people" });
  });

  test("an interrupted thread that ends by itself has the last word", async () => {
    const { thread, written, status, interrupt } = supervised({ graceMs: 60_000 });
    interrupt(SIGINT);
    expect(thread.received).toEqual([{ kind: "interrupt", signal: "SIGINT" }]);
    thread.says({ kind: "write", where: "stderr", text: "Interrupted. In order.\n" });
    thread.says({ kind: "end", status: EXIT.interrupted });
    expect(await status).toBe(EXIT.interrupted);
    expect(written().stderr).toBe("Interrupted. In order.\n");
  });

  test("one that does not is not waited for; what was kept last is said", async () => {
    const { thread, written, status, interrupt } = supervised();
    thread.says({ kind: "kept", sentence: "Half of it." });
    interrupt(new Interrupted("SIGTERM"));
    expect(await status).toBe(EXIT.terminated);
    thread.says({ kind: "write", where: "stdout", text: "too late" });
    expect(written()).toEqual({ stdout: "", stderr: "Interrupted. Half of it.\n" });
  });

  test("work that must not be cut short is waited for", async () => {
    const { thread, written, status, interrupt } = supervised();
    thread.says({ kind: "whole", isRunning: true });
    interrupt(SIGINT);
    const early = await Promise.race([status, Bun.sleep(50).then(() => "waiting")]);
    expect(early).toBe("waiting");
    thread.says({ kind: "kept", sentence: "All is saved." });
    thread.says({ kind: "whole", isRunning: false });
    expect(await status).toBe(EXIT.interrupted);
    expect(written().stderr).toBe("It ends when what is running is done and saved.\nInterrupted. All is saved.\n");
  });

  test("leave() does not wait for the grace, and takes the bar off a screen", async () => {
    const { written, status, interrupt, leave } = supervised({ isTTY: true, graceMs: 60_000 });
    interrupt(SIGINT);
    leave();
    expect(await status).toBe(EXIT.interrupted);
    expect(written().stderr).toBe("\r\u001b[K\u001b[?25h\u001b[?7hInterrupted. Nothing was written.\n");
  });

  test("a thread that fails or vanishes is an error", async () => {
    const failed = supervised();
    failed.thread.emit("error", new Error("no memory"));
    failed.thread.emit("exit");
    expect(await failed.status).toBe(EXIT.failed);
    expect(failed.written().stderr).toBe("error: no memory\n");
    const vanished = supervised();
    vanished.thread.emit("exit");
    expect(await vanished.status).toBe(EXIT.failed);
    expect(vanished.written().stderr).toContain("the command's thread ended in the middle of its work");
  });
});
