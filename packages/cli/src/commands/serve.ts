import { Option } from "@commander-js/extra-typings";
import { createApp, createLogger, Engine, LOG_LEVELS, serve as listen } from "@tslm/server";
import { adapterName, locateModelOf } from "../adapter.ts";
import { Interrupted, UsageError } from "../errors.ts";
import { type LocatedModel, supportedDevice } from "../model.ts";
import {
  ADAPTER_MODEL,
  checked,
  gathered,
  integer,
  type ModelOptions,
  modelCommand,
  notEmpty,
  option,
} from "../options.ts";
import { Progress } from "../progress.ts";
import type { Context } from "../run.ts";

/** Addresses that only this machine reaches. */
const LOOPBACK = /^(localhost|127(\.\d+){3}|::1)$/;

/** `serve`: answers over HTTP until it is stopped. */
export function serve(context: Context) {
  return modelCommand(
    context,
    "serve",
    "Answer over HTTP: POST /chat, GET /health, and a page to chat in at /.",
    [
      ["bun run serve", "the base model, at http://127.0.0.1:8000"],
      ["bun run serve --adapter model/lora_adapter", "the fine-tuned one; the base model stays available"],
      ["bun run serve --host 0.0.0.0 --api-key SECRET", "for the whole network, with a key"],
    ],
    ADAPTER_MODEL,
  )
    .option(
      "--adapter <dir>",
      "a LoRA adapter (a folder of PEFT or mlx-lm, or a GGUF file); may be given again, requests choose by the folder's name, the first is the default",
      gathered(checked(notEmpty)),
    )
    .addOption(option("--port <n>", "port to listen on; 0 takes a free one", integer(0, 65535)).default(8000))
    .addOption(option("--host <address>", "address to listen on", notEmpty).default("127.0.0.1"))
    .addOption(
      option("--max-tokens <n>", "longest answer of a request that does not say", integer(1, 4096)).default(512),
    )
    .addOption(option("--queue <n>", "requests that may wait while one is answered", integer(0, 10_000)).default(16))
    .addOption(
      option("--api-key <key>", "chats must send this key, as the header Authorization: Bearer KEY", notEmpty).env(
        "TSLM_API_KEY",
      ),
    )
    .addOption(
      new Option("--log-level <level>", "how much is logged on stderr").choices(LOG_LEVELS).default("info" as const),
    )
    .action(async (options) => {
      const { terminal, signal } = context;
      context.kept = "The server has ended.";
      const dirs = options.adapter ?? [];
      const names = dirs.map(adapterName);
      const twice = names.find((name, i) => names.indexOf(name) !== i);
      if (twice !== undefined) {
        throw new UsageError(
          `two adapters are called ${JSON.stringify(twice)}: requests could not tell them apart; rename a folder`,
        );
      }
      const located = await locateModelOf(context, dirs, options.model);
      const engine = await startEngine(context, located, dirs, options);
      try {
        const app = createApp({
          chatter: engine,
          logger: createLogger(options.logLevel),
          maxTokens: options.maxTokens,
          queueLimit: options.queue,
          seed: options.seed,
          apiKey: options.apiKey,
        });
        signal.throwIfAborted();
        if (options.apiKey === undefined && !LOOPBACK.test(options.host)) {
          terminal.warn(`whoever reaches ${options.host} can use this server; --api-key KEY makes it ask for a key`);
        }
        const server = listen({ app, port: options.port, host: options.host });
        terminal.say(`Serving ${engine.model}${names.length > 0 ? ` with ${names.join(", ")}` : ""} at ${server.url}`);
        terminal.say(
          "Open it in a browser to chat, or POST to /chat. Ctrl-C ends it when the answers that run are complete.",
        );
        if (options.json) terminal.json({ url: server.url, model: engine.model, adapters: names });
        const stopped = new Promise((resolve) => signal.addEventListener("abort", resolve, { once: true }));
        await Promise.race([stopped, engine.crashed]);
        await server.stop();
        // SIGTERM is how services are stopped: after an orderly end that is no failure.
        if (signal.reason instanceof Interrupted && signal.reason.signal === "SIGTERM") return;
        signal.throwIfAborted();
      } finally {
        await engine.dispose();
      }
    });
}

/** Loads model and adapters in the engine's own thread. */
async function startEngine(
  { terminal, signal }: Context,
  { dir, name }: LocatedModel,
  dirs: readonly string[],
  { device, threads, precision, quantize }: ModelOptions,
): Promise<Engine> {
  const progress = new Progress(terminal, "Loading");
  try {
    return await Engine.start({
      dir,
      name,
      adapters: dirs.map((adapter) => ({ name: adapterName(adapter), dir: adapter })),
      device: supportedDevice(device),
      threads,
      precision,
      quantize,
      signal,
      onProgress: (loaded, total) => progress.update(loaded / total, `${loaded} of ${total} tensors`),
      onWarning: (message) => terminal.warn(message),
    });
  } finally {
    progress.stop();
  }
}
