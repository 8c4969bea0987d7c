import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** The repository. */
export const ROOT = join(import.meta.dir, "../..");

export interface Ended {
  status: number;
  stdout: string;
  stderr: string;
}

export interface Running {
  readonly process: Bun.Subprocess<"ignore", "pipe", "pipe">;
  /** What has come so far. */
  readonly stdout: () => string;
  readonly stderr: () => string;
  /** Waits until `what` was printed, and fails when the process ends before. */
  printed(what: string | RegExp, where?: "stdout" | "stderr"): Promise<string>;
  ended(): Promise<Ended>;
}

export interface SpawnOptions {
  cwd?: string;
  env?: Record<string, string | undefined>;
}

/** Variables that keep a command away from the network and this machine's caches. */
export const OFFLINE = {
  MODELSCOPE_ENDPOINT: "http://127.0.0.1:9",
  HF_ENDPOINT: "http://127.0.0.1:9",
  MODELSCOPE_CACHE: "/nonexistent/modelscope",
  HF_HUB_CACHE: "/nonexistent/huggingface",
};

/** Starts a command as `bun run` does, from any folder. */
export function start(name: string, args: readonly string[], { cwd = ROOT, env = {} }: SpawnOptions = {}): Running {
  const process = Bun.spawn(["bun", join(ROOT, `packages/cli/src/bin/${name}.ts`), ...args], {
    cwd,
    env: { ...Bun.env, NO_COLOR: "1", ...env },
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
  });
  const text = { stdout: "", stderr: "" };
  const collect = async (where: "stdout" | "stderr"): Promise<void> => {
    const decoder = new TextDecoder();
    for await (const chunk of process[where]) text[where] += decoder.decode(chunk, { stream: true });
  };
  const done = Promise.all([collect("stdout"), collect("stderr"), process.exited]);
  let isOver = false;
  void done.then(() => {
    isOver = true;
  });
  return {
    process,
    stdout: () => text.stdout,
    stderr: () => text.stderr,
    async printed(what, where = "stderr") {
      for (;;) {
        const all = text[where];
        if (typeof what === "string" ? all.includes(what) : what.test(all)) return all;
        if (isOver) throw new Error(`${name} ended without printing ${what}:\n${text.stdout}\n${text.stderr}`);
        await Bun.sleep(10);
      }
    },
    async ended() {
      await done;
      return { status: process.exitCode ?? 128, ...text };
    },
  };
}

/** Runs a command to its end. */
export function command(name: string, args: readonly string[], options?: SpawnOptions): Promise<Ended> {
  return start(name, args, options).ended();
}

/** A folder of its own for a test; removed with `using`. */
export async function temporaryFolder(): Promise<{ path: string } & AsyncDisposable> {
  const path = await mkdtemp(join(tmpdir(), "tslm-test-"));
  return { path, [Symbol.asyncDispose]: () => rm(path, { recursive: true, force: true }) };
}

const mount = (path: string, kilobytes: number): boolean =>
  Bun.spawnSync(["mount", "-t", "tmpfs", "-o", `size=${kilobytes}k`, "tmpfs", path], { stderr: "ignore" }).success;
const unmount = (path: string): boolean => Bun.spawnSync(["umount", path], { stderr: "ignore" }).success;

/** May this user mount a file system, to have a disk that is full soon? */
export const CAN_MOUNT = await (async () => {
  await using folder = await temporaryFolder();
  return mount(folder.path, 4) && unmount(folder.path);
})().catch(() => false);

/** A file system of a few bytes. */
export async function tinyDisk(kilobytes: number): Promise<{ path: string } & AsyncDisposable> {
  const folder = await temporaryFolder();
  if (!mount(folder.path, kilobytes)) throw new Error(`cannot mount a small disk on ${folder.path}`);
  return {
    path: folder.path,
    async [Symbol.asyncDispose]() {
      unmount(folder.path);
      await folder[Symbol.asyncDispose]();
    },
  };
}
