/** Makes dist/: the page, the worker that trains, and the model's files. bun build.ts [FOLDER OF THE MODEL] */
import { cp, mkdir } from "node:fs/promises";
import { join } from "node:path";

const model = process.argv[2] ?? "../../models/demo";
const { outputs } = await Bun.build({
  // The worker is a file of its own: the page starts it by name.
  entrypoints: ["index.html", "trainer.ts"],
  outdir: "dist",
  target: "browser",
  splitting: true,
  minify: true,
  naming: { entry: "[name].[ext]" },
});
await mkdir("dist/model", { recursive: true });
const files = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"];
for (const name of files) await cp(join(model, name), join("dist", "model", name));
console.log(`dist/: ${outputs.length} files of code, and the model from ${model}`);
