// A server of the demo model whose model thread stands still for ever on SIGUSR2: `stalling-server.ts HOW SECONDS`.
import { join } from "node:path";
import { createApp, createLogger, Engine, serve } from "../../apps/server/src/index.ts";
import { ROOT } from "./process.ts";

const [how, seconds] = process.argv.slice(2);
const engine = new Engine({
  ...{ dir: join(ROOT, "models/demo"), name: "demo", adapters: [], device: "cpu", threads: 1, cacheBytes: 8 << 20 },
  stallRestartSeconds: Number(seconds),
});
const app = createApp({
  backend: engine,
  logger: createLogger("silent"),
  config: { stallSeconds: 1, limits: { concurrency: 4 } },
});
const server = serve({ app, port: 0, host: "127.0.0.1" });
await engine.ready;
process.on("SIGUSR2", () => engine.hang(how as "computing" | "waiting"));
console.log(server.url);
const error = await engine.crashed.catch((cause: Error) => cause);
console.error(error.message);
process.exit(1);
