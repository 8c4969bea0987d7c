import { existsSync } from "node:fs";
import { mkdir, writeFile } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import { ROOT } from "./process.ts";

/** Where Debian's `libc6-arm64-cross` and `libstdc++6-arm64-cross` put arm64's libraries. */
const LIBRARIES = "/usr/aarch64-linux-gnu";
const PACKAGE = "@oven/bun-linux-aarch64";

/** How Bun is started on an emulated processor, or what is missing for it. */
export type Emulated = { readonly command: readonly string[] } | { readonly missing: string };

const emulator = (arch: string): string | null => Bun.which(`qemu-${arch}-static`) ?? Bun.which(`qemu-${arch}`);

/** Finds the emulator, and brings Bun's own package for arm64 into the user's cache once. */
export async function findArm64(): Promise<Emulated> {
  if (process.platform !== "linux" || process.arch === "arm64") {
    return { missing: "this is not Linux on another processor (on arm64 itself the packages' own tests do all this)" };
  }
  const qemu = emulator("aarch64");
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

/** This Bun on another x86-64 processor, by qemu's name for it. */
export function findX64(cpu: string): Emulated {
  if (process.platform !== "linux" || process.arch !== "x64") return { missing: "this is not Linux on x86-64" };
  const qemu = emulator("x86_64");
  if (!qemu) return { missing: "qemu-x86_64 is not here (Debian's qemu-user-static)" };
  return { command: [qemu, "-cpu", cpu, process.execPath] };
}

export interface Output {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs Bun on an emulated processor in the repository. It cannot start processes of its own there. */
export async function runEmulated(emulated: Emulated, args: readonly string[]): Promise<Output> {
  if ("missing" in emulated) throw new Error(emulated.missing);
  const child = Bun.spawn([...emulated.command, ...args], {
    cwd: ROOT,
    env: { ...Bun.env, TENSOR_ISA: "", NO_COLOR: "1" },
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
  });
  const [stdout, stderr] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
  return { status: await child.exited, stdout, stderr };
}
