import { existsSync } from "node:fs";
import { mkdir, writeFile } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import { ROOT } from "./process.ts";

/** Where Debian's `libc6-arm64-cross` and `libstdc++6-arm64-cross` put arm64's libraries. */
const LIBRARIES = "/usr/aarch64-linux-gnu";
const PACKAGE = "@oven/bun-linux-aarch64";

/** Bun for arm64 under qemu, or what is missing for it. */
export type Emulated = { readonly command: readonly string[] } | { readonly missing: string };

/** Finds the emulator, and brings Bun's own package for arm64 into the user's cache once. */
export async function findArm64(): Promise<Emulated> {
  if (process.platform !== "linux" || process.arch === "arm64") {
    return { missing: "this is not Linux on another processor (on arm64 itself the packages' own tests do all this)" };
  }
  const qemu = Bun.which("qemu-aarch64-static") ?? Bun.which("qemu-aarch64");
  if (!qemu) return { missing: "qemu-aarch64 is not here (Debian's qemu-user-static)" };
  if (!existsSync(join(LIBRARIES, "lib", "libstdc++.so.6")) || !existsSync(join(LIBRARIES, "lib", "libgcc_s.so.1"))) {
    return { missing: "arm64's libraries are not here (Debian's libc6-arm64-cross and libstdc++6-arm64-cross)" };
  }
  const cache = Bun.env.XDG_CACHE_HOME ?? join(homedir(), ".cache");
  const folder = join(cache, "tslm", `bun-linux-aarch64-${Bun.version}`);
  const bun = join(folder, "node_modules", PACKAGE, "bin", "bun");
  if (!existsSync(bun)) {
    await mkdir(folder, { recursive: true });
    await writeFile(join(folder, "package.json"), JSON.stringify({ dependencies: { [PACKAGE]: Bun.version } }));
    const install = Bun.spawnSync(
      [process.execPath, "install", "--cpu", "arm64", "--os", "linux", "--ignore-scripts", "--no-save"],
      { cwd: folder, stdout: "ignore", stderr: "pipe" },
    );
    if (!existsSync(bun)) return { missing: `${PACKAGE} could not be installed: ${install.stderr.toString().trim()}` };
  }
  return { command: [qemu, "-L", LIBRARIES, bun] };
}

export interface Output {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs Bun for arm64 in the repository; what it prints, standard error with it. */
export async function runArm64(command: readonly string[], args: readonly string[]): Promise<Output> {
  const child = Bun.spawn([...command, ...args], {
    cwd: ROOT,
    env: { ...Bun.env, TENSOR_ISA: "neon", NO_COLOR: "1" },
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
  });
  const [stdout, stderr] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
  return { status: await child.exited, stdout, stderr };
}
