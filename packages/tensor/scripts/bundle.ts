/**
 * Makes dist/bundle/ of dist/: the whole package for a page without a bundler, minified. Devices are loaded when asked for: their code
 * lies in files of its own.
 */
import { join } from "node:path";

const root = join(import.meta.dir, "..");
const { outputs } = await Bun.build({
  entrypoints: [join(root, "dist", "index.js")],
  outdir: join(root, "dist", "bundle"),
  target: "browser",
  format: "esm",
  splitting: true,
  minify: true,
  external: ["gpu.js"],
});
let total = 0;
for (const output of outputs) total += Bun.gzipSync(new Uint8Array(await output.arrayBuffer())).byteLength;
console.error(`dist/bundle: ${outputs.length} files, ${(total / 1000).toFixed(1)} KB with gzip`);
