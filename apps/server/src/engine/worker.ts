// The engine's own thread: loads a model and its adapters and answers; HTTP stays awake on the main thread meanwhile.
import { parentPort, workerData } from "node:worker_threads";
import { type LoadedQwen, prepareConstraints, Qwen } from "@tslm/qwen";
import { createDevice, type Device, setDefaultDevice } from "@tslm/tensor";
import type { AnswerRequest, ModelInfo } from "../backend.ts";
import { ApiError } from "../errors.ts";
import { Adapters } from "./adapters.ts";
import { type AnsweringParts, answerEvents, toApiError } from "./answering.ts";
import { constraintMaker } from "./constraints.ts";
import { createEngine, type HostedEngine } from "./host.ts";
import { Prompts } from "./prompts.ts";
import type { EngineCalls, EngineOptions, FromEngine, SentError, ToEngine, WorkerData } from "./protocol.ts";
import { SharedStats } from "./shared-stats.ts";

/** Milliseconds between two looks at the figures. */
const STATS_MS = 20;

const port = parentPort!;
const send = (message: FromEngine): void => port.postMessage(message);

function sendable(error: unknown): SentError {
  if (!(error instanceof Error)) return { message: String(error) };
  const { message, stack } = error;
  if (!(error instanceof ApiError)) return { message, stack };
  const { type, param, code, retryAfter } = error;
  return { message, stack, type, param, code, retryAfter };
}

interface Loaded {
  readonly qwen: LoadedQwen;
  readonly device: Device;
  readonly engine: HostedEngine;
  readonly adapters: Adapters;
  readonly info: ModelInfo;
}

async function load(options: EngineOptions): Promise<Loaded> {
  const { dir, name, device: deviceName, threads, precision, quantize } = options;
  const device = await createDevice(deviceName, { threads, precision });
  setDefaultDevice(device);
  if (device.info.warning) send({ kind: "warning", message: device.info.warning });
  const onProgress = (loaded: number, total: number): void => send({ kind: "loading", loaded, total });
  const qwen = await Qwen.load(dir, { device, quantize, onProgress });
  // Whoever first asks for JSON need not wait for it.
  prepareConstraints(qwen.tokenizer);
  const engine = createEngine(qwen, options);
  let isReady = false;
  const adapters: Adapters = new Adapters({
    model: qwen.model,
    baseName: name,
    host: engine,
    onWarning: (message) => send({ kind: "warning", message }),
    onChange: () => isReady && send({ kind: "adapters", adapters: adapters.infos }),
  });
  for (const source of options.adapters) await adapters.load(source);
  isReady = true;
  return { qwen, device, engine, adapters, info: infoOf(qwen, engine, options) };
}

function infoOf(
  { config, generationConfig, tokenizer, model, device }: LoadedQwen,
  { contextLength }: HostedEngine,
  { quantize }: EngineOptions,
): ModelInfo {
  const { doSample, temperature, topK, topP, minP, repetitionPenalty } = generationConfig;
  const parameters = [...model.namedParameters()].reduce((sum, [, t]) => sum + t.shape.reduce((a, b) => a * b, 1), 0);
  return {
    device: { ...device.info },
    contextLength,
    vocabularySize: tokenizer.size,
    parameters,
    layers: config.numHiddenLayers,
    hiddenSize: config.hiddenSize,
    chatTemplate: tokenizer.files.chatTemplate,
    quantization: quantize,
    sampling: doSample ? { temperature, topK, topP, minP, repetitionPenalty } : { temperature: 0 },
  };
}

/** Answers after which garbage is collected as soon as nobody waits: some ten megabytes. */
const ANSWERS_A_COLLECTION = 200;
/** Answers after which it is collected all the same: those who wait do so some 50 milliseconds longer. */
const MOST_ANSWERS_UNCOLLECTED = 400;

function serveRequests({ qwen, device, engine, adapters }: Loaded, stats: SharedStats): void {
  const { tokenizer } = qwen;
  const prompts = new Prompts(tokenizer);
  const parts: AnsweringParts = {
    engine,
    tokenizer,
    prompts,
    adapters,
    positions: engine.contextLength,
    endTokens: qwen.generationConfig.eosTokenIds,
    constraint: constraintMaker(qwen),
  };
  const running = new Map<number, AbortController>();
  const write = (): void => stats.write(engine.stats);
  setInterval(write, STATS_MS);
  // Mapped weights count as the heap's, so that the collector waits for as much garbage as the model is large.
  let answered = 0;
  setInterval(() => {
    if (answered < (running.size > 0 ? MOST_ANSWERS_UNCOLLECTED : ANSWERS_A_COLLECTION)) return;
    answered = 0;
    Bun.gc(true);
  }, STATS_MS);

  const answer = async (id: number, request: AnswerRequest): Promise<void> => {
    const abort = new AbortController();
    running.set(id, abort);
    try {
      for await (const event of answerEvents(request, abort.signal, parts)) {
        write();
        send({ kind: "event", id, event });
      }
      send({ kind: "done", id });
    } catch (error) {
      send({ kind: "error", id, error: sendable(error) });
    } finally {
      running.delete(id);
      answered++;
      write();
    }
  };
  const calls: EngineCalls = {
    tokenize: (text, specialTokens) => tokenizer.encode(text, { specialTokens }),
    detokenize: (tokens) => tokenizer.decode(tokens),
    render: (prompt, adapter) => prompts.encode(prompt, adapters.promptOf(adapter)),
    embed: async (inputs) => {
      const all = inputs.map((input) => (typeof input === "string" ? tokenizer.encode(input) : input));
      return { vectors: await engine.embed(all), tokens: all.reduce((sum, { length }) => sum + length, 0) };
    },
    loadAdapter: (source) => adapters.load(source),
    unloadAdapter: (name) => adapters.unload(name),
  };
  const call = async (id: number, name: keyof EngineCalls, args: readonly unknown[]): Promise<void> => {
    try {
      const method = calls[name] as (...args: readonly unknown[]) => unknown;
      send({ kind: "result", id, value: await method(...args) });
    } catch (error) {
      send({ kind: "error", id, error: sendable(toApiError(error)) });
    }
  };
  port.on("message", (message: ToEngine) => {
    switch (message.kind) {
      case "answer":
        void answer(message.id, message.request);
        return;
      case "call":
        void call(message.id, message.name, message.args);
        return;
      case "abort":
        running.get(message.id)?.abort();
        return;
      case "die":
        process.exit(3);
        return;
      case "hang":
        hang(message.how);
        return;
      case "end":
        void end();
    }
  });
  async function end(): Promise<void> {
    await engine.close();
    qwen.dispose();
    await device.dispose();
    process.exit(0);
  }
}

/** What a fault could do. */
function hang(how: "computing" | "waiting"): void {
  for (;;) if (how === "waiting") Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
}

const { options, stats } = workerData as WorkerData;
try {
  const loaded = await load(options);
  serveRequests(loaded, new SharedStats(stats));
  send({ kind: "ready", info: loaded.info, adapters: loaded.adapters.infos });
} catch (error) {
  send({ kind: "failed", error: sendable(error) });
}
