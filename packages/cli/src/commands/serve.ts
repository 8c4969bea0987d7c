import { readFile } from "node:fs/promises";
import { type Command, Option } from "@commander-js/extra-typings";
import { CACHE_TYPES } from "@tslm/qwen";
import {
  AdapterReloader,
  CONTEXT_POLICIES,
  ConfigError,
  createApp,
  createLogger,
  Engine,
  LOG_LEVELS,
  serve as listen,
  loadConfig,
  plainKey,
  type ServeConfig,
  type ServerLogger,
  serverConfigOf,
} from "@tslm/server";
import { adapterName, locateModelOf } from "../adapter.ts";
import { CommandError, explain, Interrupted, UsageError } from "../errors.ts";
import { type LocatedModel, supportedDevice } from "../model.ts";
import { ADAPTER_MODEL, checked, gathered, integer, modelCommand, notEmpty, option } from "../options.ts";
import { Progress } from "../progress.ts";
import type { Context } from "../run.ts";

/** Addresses that only this machine reaches. */
const LOOPBACK = /^(localhost|127(\.\d+){3}|::1)$/;

/** `serve`: answers over HTTP until it is stopped. */
export function serve(context: Context) {
  const command = serveCommand(context);
  return command.action(async () => {
    const { terminal, signal } = context;
    context.kept = "The server has ended.";
    const options = command.opts();
    const config = await configOf(command);
    const names = config.adapters.map(adapterName);
    const twice = names.find((name, i) => names.indexOf(name) !== i);
    if (twice !== undefined) {
      throw new UsageError(
        `two adapters are called ${JSON.stringify(twice)}: requests could not tell them apart; rename a folder`,
      );
    }
    const isLocal = LOOPBACK.test(config.host);
    if (config.apiKeys.length === 0 && !isLocal) {
      terminal.warn(`whoever reaches ${config.host} can use this server; --api-key KEY makes it ask for a key`);
    }
    const located = await locateModelOf(context, config.adapters, config.model);
    const logger = createLogger(config.logLevel);
    const engine = makeEngine(context, located, config, logger);
    try {
      const app = createApp({ backend: engine, logger, isLocal, config: serverConfigOf(config) });
      signal.throwIfAborted();
      const server = listen({ app, port: config.port, host: config.host });
      try {
        await engine.ready;
        if (config.adapterReloadSeconds > 0) {
          new AdapterReloader(engine, { seconds: config.adapterReloadSeconds, logger });
        }
        terminal.say(`Serving ${engine.model}${names.length > 0 ? ` with ${names.join(", ")}` : ""} at ${server.url}`);
        terminal.say(
          "Open it in a browser to chat, or POST to /chat. Ctrl-C ends it when the answers that run are complete.",
        );
        if (options.json) terminal.json({ url: server.url, model: engine.model, adapters: names });
        const stopped = new Promise((resolve) => signal.addEventListener("abort", resolve, { once: true }));
        await Promise.race([stopped, engine.crashed]);
      } finally {
        await server.stop();
      }
      // SIGTERM is how services are stopped: after an orderly end that is no failure.
      if (signal.reason instanceof Interrupted && signal.reason.signal === "SIGTERM") return;
      signal.throwIfAborted();
    } finally {
      await engine.dispose();
    }
  });
}

function serveCommand(context: Context) {
  return modelCommand(
    context,
    "serve",
    "Answer over HTTP: POST /chat, OpenAI's and Ollama's interfaces, and a page to chat in at /.",
    [
      ["bun run serve", "the base model, at http://127.0.0.1:8000"],
      ["bun run serve --adapter model/lora_adapter", "the fine-tuned one; the base model stays available"],
      ["bun run serve --host 0.0.0.0 --api-key SECRET", "for the whole network, with a key"],
      ["bun run serve --config serve.yaml", "every setting from a file; flags and TSLM_… variables win over it"],
    ],
    ADAPTER_MODEL,
  )
    .option(
      "--adapter <dir>",
      "a LoRA adapter (a folder of PEFT or mlx-lm, or a GGUF file); may be given again, requests choose by the folder's name, the first is the default",
      gathered(checked(notEmpty)),
    )
    .addOption(option("--config <file>", "settings in YAML or JSON", notEmpty).env("TSLM_CONFIG"))
    .addOption(option("--port <n>", "port to listen on; 0 takes a free one (default: 8000)", integer(0, 65535)))
    .addOption(option("--host <address>", "address to listen on (default: 127.0.0.1)", notEmpty))
    .addOption(
      option("--max-tokens <n>", "longest answer of a request that does not say (default: 512)", integer(1, 4096)),
    )
    .addOption(
      new Option("--context-policy <name>", "of what is longer than the model has room for (default: error)").choices(
        CONTEXT_POLICIES,
      ),
    )
    .addOption(option("--concurrency <n>", "requests that are answered at once (default: 16)", integer(1, 1024)))
    .addOption(
      option("--queue <n>", "requests that may wait while others are answered (default: 16)", integer(0, 10_000)),
    )
    .addOption(option("--cache-mb <n>", "memory of the key/value cache, MB (default: 512)", integer(1, 1 << 20)))
    .addOption(
      new Option(
        "--cache-type <type>",
        "how keys and values are kept there: q8_0 holds 3.76 times as many, rounded to 8 bits (default: f32)",
      ).choices(CACHE_TYPES),
    )
    .addOption(
      option(
        "--stall-restart <seconds>",
        "start the model's thread again when it has not moved for so long with work to do; 0: never (default: 120)",
        integer(0, 86_400),
      ),
    )
    .addOption(
      option("--api-key <key>", "requests must send this key, as the header Authorization: Bearer KEY", notEmpty),
    )
    .option(
      "--cors-origin <origin>",
      "web pages of this origin may call; may be given again",
      gathered(checked(notEmpty)),
    )
    .addOption(option("--adapter-root <dir>", "adapters below this folder may be loaded by POST /adapters", notEmpty))
    .addOption(option("--conversations <file>", "keep conversations that ask for it in this SQLite file", notEmpty))
    .addOption(new Option("--log-level <level>", "how much is logged on stderr (default: info)").choices(LOG_LEVELS));
}

/** The settings of file, environment and flags. @throws UsageError, CommandError */
async function configOf(command: ReturnType<typeof serveCommand>): Promise<ServeConfig> {
  const options = command.opts();
  const given = <T>(name: keyof typeof options, value: T): T | undefined =>
    (command as unknown as Command).getOptionValueSource(name) === "cli" ? value : undefined;
  const flags = {
    model: options.model,
    adapters: options.adapter,
    host: options.host,
    port: options.port,
    device: given("device", options.device),
    threads: options.threads,
    precision: given("precision", options.precision),
    quantize: options.quantize,
    seed: given("seed", options.seed),
    maxTokens: options.maxTokens,
    contextPolicy: options.contextPolicy,
    cacheMegabytes: options.cacheMb,
    cacheType: options.cacheType,
    stallRestartSeconds: options.stallRestart,
    corsOrigins: options.corsOrigin,
    adapterRoot: options.adapterRoot,
    conversations: options.conversations,
    logLevel: options.logLevel,
    limits: { concurrency: options.concurrency, queue: options.queue },
    apiKeys: options.apiKey === undefined ? undefined : [plainKey(options.apiKey)],
  };
  const path = options.config;
  try {
    return loadConfig({
      flags,
      env: process.env,
      ...(path !== undefined && { file: { path, text: await readText(path) } }),
    });
  } catch (error) {
    throw error instanceof ConfigError ? new UsageError(error.message, { cause: error }) : error;
  }
}

async function readText(path: string): Promise<string> {
  try {
    return await readFile(path, "utf8");
  } catch (cause) {
    throw new CommandError(`--config: ${explain(cause)}`, { cause });
  }
}

/** Begins to load model and adapters in the engine's own thread. */
function makeEngine(
  { terminal, signal }: Context,
  { dir, name }: LocatedModel,
  config: ServeConfig,
  logger: ServerLogger,
): Engine {
  const progress = new Progress(terminal, "Loading");
  const engine = new Engine({
    dir,
    name,
    adapters: config.adapters.map((adapter) => ({ name: adapterName(adapter), dir: adapter })),
    device: supportedDevice(config.device),
    threads: config.threads,
    precision: config.precision,
    quantize: config.quantize,
    concurrency: config.limits.concurrency,
    cacheBytes: config.cacheMegabytes * 2 ** 20,
    cacheType: config.cacheType,
    stallRestartSeconds: config.stallRestartSeconds,
    signal,
    onProgress: (loaded, total) => progress.update(loaded / total, `${loaded} of ${total} tensors`),
    onWarning: (message) => terminal.warn(message),
    onRestart: (error) => logger.error({ err: error }, "the engine died or stood still and is started again"),
  });
  const stop = (): void => progress.stop();
  engine.ready.then(stop, stop);
  return engine;
}
