/**
 * Makes a package's dist/, for runtimes that do not read TypeScript: a module of JavaScript and its types for each source, so
 * that bundlers leave out what is not imported. Run in the package's folder, after the packages that it imports. Bun takes src/ as
 * it is.
 */
import { existsSync } from "node:fs";
import { rm } from "node:fs/promises";
import { join } from "node:path";

await rm("dist", { recursive: true, force: true });
const compiler = join(import.meta.dir, "..", "node_modules", "typescript", "bin", "tsc");
const { exitCode } = Bun.spawnSync([process.execPath, compiler, "-p", "tsconfig.build.json"], {
  stdio: ["ignore", "inherit", "inherit"],
});
if (exitCode !== 0) process.exit(exitCode);

// What one runtime alone imports is reached by no import that the compiler follows: tsconfig.build.json must name it.
const { imports = {} } = await Bun.file("package.json").json();
const missing = [...JSON.stringify(imports).matchAll(/"(\.\/dist\/[^"]+)"/g)].filter(([, path]) => !existsSync(path));
if (missing.length > 0) {
  console.error(`not built: ${missing.map(([, path]) => path).join(", ")}; add the sources to tsconfig.build.json`);
  process.exit(1);
}
