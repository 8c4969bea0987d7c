// The engine's own thread: loads a model and its adapters and answers; HTTP stays awake on the main thread meanwhile.
import { parentPort, workerData } from "node:worker_threads";
import { baseMismatch, loadAdapter, promptFormat, readPrompt } from "@tslm/lora";
import { Qwen } from "@tslm/qwen";
import { createDevice, type Device, setDefaultDevice } from "@tslm/tensor";
import { ApiError } from "../errors.ts";
import { type ChatAdapter, ModelChatter } from "./model-chatter.ts";
import type { EngineOptions, FromEngine, SentError, ToEngine } from "./protocol.ts";

const port = parentPort!;
const send = (message: FromEngine): void => port.postMessage(message);

function sendable(error: unknown): SentError {
  if (!(error instanceof Error)) return { message: String(error) };
  const { message, stack } = error;
  return error instanceof ApiError ? { message, stack, type: error.type, param: error.param } : { message, stack };
}

async function load({ dir, name, adapters: wanted, device: deviceName, threads, precision, quantize }: EngineOptions) {
  const device = await createDevice(deviceName, { threads, precision });
  setDefaultDevice(device);
  const onProgress = (loaded: number, total: number): void => send({ kind: "loading", loaded, total });
  const qwen = await Qwen.load(dir, { device, quantize, onProgress });
  const adapters: ChatAdapter[] = [];
  for (const adapter of wanted) {
    const lora = await loadAdapter(adapter.dir, qwen.model);
    lora.detach();
    const prompt = await readPrompt(adapter.dir);
    const mismatch = await baseMismatch(prompt, qwen.model);
    if (mismatch !== undefined) send({ kind: "warning", message: `the adapter in ${adapter.dir} ${mismatch}` });
    adapters.push({ name: adapter.name, lora, prompt: prompt ?? promptFormat(name) });
  }
  return { qwen, device, chatter: new ModelChatter(qwen, { name, adapters }) };
}

function serveCalls(chatter: ModelChatter, qwen: Qwen, device: Device): void {
  const running = new Map<number, AbortController>();
  const answer = async (id: number, prompt: Parameters<ModelChatter["answer"]>[0]): Promise<void> => {
    const abort = new AbortController();
    running.set(id, abort);
    try {
      for await (const event of chatter.answer(prompt, abort.signal)) send({ kind: "event", id, event });
      send({ kind: "done", id });
    } catch (error) {
      send({ kind: "error", id, error: sendable(error) });
    } finally {
      running.delete(id);
    }
  };
  port.on("message", (message: ToEngine) => {
    switch (message.kind) {
      case "prepare":
        try {
          send({ kind: "prepared", id: message.id, prompt: chatter.prepare(message.request) });
        } catch (error) {
          send({ kind: "error", id: message.id, error: sendable(error) });
        }
        return;
      case "answer":
        void answer(message.id, message.prompt);
        return;
      case "abort":
        running.get(message.id)?.abort();
        return;
      case "end":
        qwen.dispose();
        void device.dispose().finally(() => port.close());
    }
  });
}

try {
  const { qwen, device, chatter } = await load(workerData as EngineOptions);
  serveCalls(chatter, qwen, device);
  send({ kind: "ready", device: { ...device.info } });
} catch (error) {
  send({ kind: "failed", error: sendable(error) });
}
