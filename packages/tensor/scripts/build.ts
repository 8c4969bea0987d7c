/**
 * Makes dist/ for runtimes that do not read TypeScript: one bundle for Node, one for browsers, and the types. Bun takes src/
 * as it is. `npm pack` runs this first; package.json's "exports" lead each runtime to its own.
 */
import { rm } from "node:fs/promises";
import { join } from "node:path";

const root = join(import.meta.dir, "..");
const dist = join(root, "dist");
await rm(dist, { recursive: true, force: true });

for (const target of ["node", "browser"] as const) {
  await Bun.build({
    entrypoints: [join(root, "src", "index.ts")],
    outdir: join(dist, target),
    target,
    format: "esm",
    // Devices are loaded when asked for: their code lies in files of its own.
    splitting: true,
    sourcemap: "linked",
  });
}

const types = Bun.spawnSync([process.execPath, "x", "tsc", "-p", "tsconfig.build.json"], {
  cwd: root,
  stdio: ["ignore", "inherit", "inherit"],
});
process.exit(types.exitCode);
