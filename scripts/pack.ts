/**
 * Packs the packages that others install, as a registry would get them: bun scripts/pack.ts [FOLDER]. Prints the tarballs, one a
 * line; FOLDER is dist/ unless given.
 */
import { mkdir } from "node:fs/promises";
import { join, resolve } from "node:path";

const root = join(import.meta.dir, "..");
const folder = resolve(process.argv[2] ?? join(root, "dist"));

/** In the order in which one imports the other. */
const PACKED = ["tensor", "qwen", "lora"];

await mkdir(folder, { recursive: true });
for (const name of PACKED) {
  const cwd = join(root, "packages", name);
  const { version } = await Bun.file(join(cwd, "package.json")).json();
  const packing = Bun.spawnSync([process.execPath, "pm", "pack", "--quiet", "--destination", folder], {
    cwd,
    stdio: ["ignore", "pipe", "inherit"],
  });
  if (packing.exitCode !== 0) {
    console.error(packing.stdout.toString());
    process.exit(1);
  }
  console.log(join(folder, `tslm-${name}-${version}.tgz`));
}
