// The worker: a language model, an adapter beside it, and their training.
import {
  adapterBytes,
  applyLora,
  type Lora,
  promptFormat,
  putQuestion,
  train,
  trainingSequences,
} from "@tslm/lora/browser";
import { Qwen } from "@tslm/qwen/browser";
import { createDevice, type DeviceName, Generator, setDefaultDevice } from "@tslm/tensor";
import type { News, Order, Row } from "./messages.ts";

const FILES = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"];
const FORMAT = promptFormat("demo");

const tell = (news: News): void => postMessage(news);
let qwen: Qwen | undefined;
let lora: Lora | undefined;

async function load(device: DeviceName): Promise<void> {
  const chosen = await createDevice(device);
  setDefaultDevice(chosen);
  const read = async (name: string): Promise<readonly [string, Uint8Array]> => {
    const response = await fetch(`model/${name}`);
    if (!response.ok) throw new Error(`model/${name} could not be loaded: ${response.status}`);
    return [name, new Uint8Array(await response.arrayBuffer())];
  };
  qwen?.dispose();
  lora = undefined;
  qwen = await Qwen.parse(Object.fromEntries(await Promise.all(FILES.map(read))));
  const parameters = [...qwen.model.parameters()].reduce((sum, t) => sum + t.size, 0);
  tell({ kind: "loaded", name: chosen.info.name, isa: chosen.info.isa, threads: chosen.info.threads, parameters });
}

async function answer(question: string): Promise<string> {
  const { ids } = putQuestion({ input: question }, FORMAT, qwen!.tokenizer);
  const { text } = await qwen!.complete(ids, { maxNewTokens: 80 });
  return text;
}

async function fineTune(rows: Row[], question: string, epochs: number, rate: number): Promise<void> {
  const { model, tokenizer } = qwen!;
  lora?.detach();
  lora = applyLora(
    model,
    { r: 8, lora_alpha: 32, lora_dropout: 0.1, target_modules: ["q_proj", "v_proj"] },
    new Generator(0),
  );
  const { sequences } = trainingSequences(rows, {
    prompt: FORMAT,
    encode: (text) => tokenizer.encode(text),
    endTokenId: tokenizer.tokenToId(FORMAT.end_token)!,
  });
  await train({
    ...{ model, lora, sequences, options: { epochs, lr: rate } },
    onStep: ({ step, loss, tokens, seconds }, steps) =>
      tell({ kind: "step", step, steps, loss, tokensPerSecond: tokens / seconds }),
  });
  const put = putQuestion({ input: question }, FORMAT, tokenizer);
  const { top, logsumexp } = await qwen!.score(put.ids);
  tell({
    kind: "adapter",
    files: await adapterBytes(lora, { baseModel: "demo", prompt: FORMAT }),
    trainable: lora.parameters().reduce((sum, t) => sum + t.size, 0),
    scores: { prompt: put.text, top: [...top], logsumexp },
    answer: await answer(question),
  });
}

async function obey(order: Order): Promise<void> {
  if (order.kind === "load") await load(order.device as DeviceName);
  else if (order.kind === "ask") tell({ kind: "answer", text: await answer(order.question) });
  else await fineTune(order.rows, order.question, order.epochs, order.rate);
}

self.onmessage = ({ data }: MessageEvent<Order>): void => {
  obey(data).catch((error: Error) => tell({ kind: "failed", message: error.message }));
};
