import { mkdtempSync, rmSync } from "node:fs";
import { cp, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Ended, ROOT } from "./process.ts";

/** Runs a program to its end. */
export async function execute(cwd: string, ...command: string[]): Promise<Ended> {
  const child = Bun.spawn(command, { cwd, env: { ...Bun.env, NO_COLOR: "1" }, stdout: "pipe", stderr: "pipe" });
  const [stdout, stderr] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
  return { status: await child.exited, stdout, stderr };
}

async function succeed(cwd: string, ...command: string[]): Promise<string> {
  const { status, stdout, stderr } = await execute(cwd, ...command);
  if (status !== 0) throw new Error(`${command.join(" ")} in ${cwd} ended with ${status}:\n${stdout}${stderr}`);
  return stdout;
}

let made: Promise<ReadonlyMap<string, string>> | undefined;

/** The tarballs of the packages that others install, by package name; packed once in a process. */
export function packed(): Promise<ReadonlyMap<string, string>> {
  made ??= (async () => {
    const folder = mkdtempSync(join(tmpdir(), "tslm-packed-"));
    process.on("exit", () => rmSync(folder, { recursive: true, force: true }));
    const out = await succeed(ROOT, process.execPath, join(ROOT, "scripts", "pack.ts"), folder);
    const tarballs = out.trim().split("\n");
    return new Map(tarballs.map((path) => [`@tslm/${/tslm-(\w+)-[^/]*$/.exec(path)![1]}`, path]));
  })();
  return made;
}

/** A project outside of the repository, removed with `using`. */
export interface Project extends AsyncDisposable {
  readonly path: string;
}

/**
 * A project with the packed packages installed, without what is optional unless asked for (the gpu device's): an example's
 * folder, copied, or one with only a package.json.
 */
export async function project(
  options: { copy: string } | { dependencies: readonly string[] },
  { installer = "bun", optional = false }: { installer?: "bun" | "npm"; optional?: boolean } = {},
): Promise<Project> {
  const tarballs = await packed();
  const path = await mkdtemp(join(tmpdir(), "tslm-project-"));
  const file = join(path, "package.json");
  let manifest: {
    name: string;
    type: string;
    dependencies: Record<string, string>;
    overrides?: Record<string, string>;
  };
  if ("copy" in options) {
    await cp(options.copy, path, {
      recursive: true,
      filter: (from) => !/[/\\](node_modules|dist|bun\.lock)$/.test(from),
    });
    manifest = await Bun.file(file).json();
  } else {
    manifest = { name: "project", type: "module", dependencies: {} };
    for (const name of options.dependencies) manifest.dependencies[name] = "";
  }
  for (const name of Object.keys(manifest.dependencies)) {
    const tarball = tarballs.get(name);
    if (tarball) manifest.dependencies[name] = `file:${tarball}`;
  }
  // What the packed packages import of each other is these tarballs too, not a registry's.
  manifest.overrides = Object.fromEntries([...tarballs].map(([name, tarball]) => [name, `file:${tarball}`]));
  await writeFile(file, JSON.stringify(manifest, null, 2));
  const install = installer === "bun" ? [process.execPath, "install"] : ["npm", "install", "--no-audit", "--no-fund"];
  await succeed(path, ...install, "--ignore-scripts", ...(optional ? [] : ["--omit=optional"]));
  return { path, [Symbol.asyncDispose]: () => rm(path, { recursive: true, force: true }) };
}
