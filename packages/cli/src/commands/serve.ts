import { Option } from "@commander-js/extra-typings";
import { createApp, createLogger, LOG_LEVELS, serve as listen, ModelChatter } from "@tslm/server";
import { adapterName, openModelWithAdapters } from "../adapter.ts";
import { Interrupted, UsageError } from "../errors.ts";
import { ADAPTER_MODEL, checked, gathered, integer, modelCommand, notEmpty, option } from "../options.ts";
import type { Context } from "../run.ts";

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
      "folder of a LoRA adapter; may be given again, requests choose by the folder's name, the first is the default",
      gathered(checked(notEmpty)),
    )
    .addOption(option("--port <n>", "port to listen on; 0 takes a free one", integer(0, 65535)).default(8000))
    .addOption(option("--host <address>", "address to listen on", notEmpty).default("127.0.0.1"))
    .addOption(
      option("--max-tokens <n>", "longest answer of a request that does not say", integer(1, 4096)).default(512),
    )
    .addOption(option("--queue <n>", "requests that may wait while one is answered", integer(0, 10_000)).default(16))
    .addOption(
      option("--api-key <key>", "wanted of every chat as Authorization: Bearer KEY", notEmpty).env("TSLM_API_KEY"),
    )
    .addOption(new Option("--log-level <level>", "of the log on stderr").choices(LOG_LEVELS).default("info" as const))
    .action(async (options) => {
      const { terminal, signal } = context;
      context.onInterrupt = () => "The server has ended.";
      const names = (options.adapter ?? []).map(adapterName);
      const twice = names.find((name, i) => names.indexOf(name) !== i);
      if (twice !== undefined) {
        throw new UsageError(
          `two adapters are called ${JSON.stringify(twice)}: requests could not tell them apart; rename a folder`,
        );
      }
      const open = await openModelWithAdapters(context, options.adapter ?? [], options);
      try {
        const app = createApp({
          chatter: new ModelChatter(open.qwen, { name: open.name, adapters: open.adapters }),
          logger: createLogger(options.logLevel),
          maxTokens: options.maxTokens,
          queueLimit: options.queue,
          seed: options.seed,
          apiKey: options.apiKey,
        });
        signal.throwIfAborted();
        const server = listen({ app, port: options.port, host: options.host });
        terminal.say(`Serving ${open.name}${names.length > 0 ? ` with ${names.join(", ")}` : ""} at ${server.url}`);
        terminal.say("Ctrl-C ends it when the answers that run are complete.");
        if (options.json) terminal.json({ url: server.url, model: open.name, adapters: names });
        await new Promise((resolve) => signal.addEventListener("abort", resolve, { once: true }));
        await server.stop();
        // SIGTERM is how services are stopped: after an orderly end that is no failure.
        if (signal.reason instanceof Interrupted && signal.reason.signal === "SIGTERM") return;
        signal.throwIfAborted();
      } finally {
        await open.dispose();
      }
    });
}
