/**
 * Makes a package's dist/, for runtimes that do not read TypeScript: a module of JavaScript and its types for each source, so
 * that bundlers leave out what is not imported. Run in the package's folder, after the packages that it imports. Bun takes src/ as
 * it is.
 */
import { rm } from "node:fs/promises";
import { join } from "node:path";

await rm("dist", { recursive: true, force: true });
const compiler = join(import.meta.dir, "..", "node_modules", "typescript", "bin", "tsc");
const { exitCode } = Bun.spawnSync([process.execPath, compiler, "-p", "tsconfig.build.json"], {
  stdio: ["ignore", "inherit", "inherit"],
});
process.exit(exitCode);
