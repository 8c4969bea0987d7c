// Bundles the devices' suite for a page: `bun build-webgl2-suite.ts FOLDER`.
import { join } from "node:path";

const { logs } = await Bun.build({
  entrypoints: [join(import.meta.dir, "webgl2-suite.ts")],
  outdir: process.argv[2]!,
  target: "browser",
  conditions: ["@tslm/source", "browser"],
  plugins: [
    {
      name: "expect",
      setup: (build) =>
        void build.onResolve({ filter: /^bun:test$/ }, () => ({ path: join(import.meta.dir, "expect-in-page.ts") })),
    },
  ],
});
for (const log of logs) console.error(String(log));
