import { EventSourceParserStream } from "eventsource-parser/stream";
import { key, type Settings } from "./store.ts";

export interface ChatMessage {
  role: "system" | "user" | "assistant";
  content: string;
}

/** A piece of an answer, or its end. */
export interface ChatEvent {
  delta?: string;
  finish_reason?: "stop" | "length";
  usage?: { prompt_tokens: number; completion_tokens: number };
  error?: { message: string };
}

export interface Health {
  model: string;
  adapters: string[];
}

export async function health(): Promise<Health> {
  return (await (await fetch("/health")).json()) as Health;
}

/** Asks `/chat`; `askKey` is called where the server wants a key that it does not have. */
export async function* chat(
  question: { message: string; history: ChatMessage[]; adapter: string | null },
  settings: Settings,
  { signal, askKey }: { signal: AbortSignal; askKey: () => string | null },
): AsyncGenerator<ChatEvent> {
  const { temperature, topP, maxTokens, seed } = settings;
  const body = JSON.stringify({
    ...question,
    stream: true,
    temperature,
    top_p: topP,
    ...(Number(maxTokens) > 0 && { max_tokens: Math.floor(Number(maxTokens)) }),
    ...(seed !== "" && { seed: Math.floor(Number(seed)) }),
  });
  const post = (): Promise<Response> => {
    const given = key.get();
    const headers = { "Content-Type": "application/json", ...(given && { Authorization: `Bearer ${given}` }) };
    return fetch("/chat", { method: "POST", headers, body, signal });
  };
  let response = await post();
  if (response.status === 401) {
    const given = askKey();
    if (given) {
      key.set(given);
      response = await post();
    }
  }
  if (!response.ok) throw new Error(((await response.json()) as ChatEvent).error?.message ?? response.statusText);
  for await (const data of serverSentEvents(response.body!)) {
    if (data === "[DONE]") return;
    const event = JSON.parse(data) as ChatEvent;
    if (event.error) throw new Error(event.error.message);
    yield event;
  }
  // Every answer ends with that mark; without it the server or a proxy has died on the way.
  throw new CutError();
}

/** The answer ended before its end was told. */
export class CutError extends Error {
  override readonly name = "CutError";
}

/** The data of each event; what is no event, such as a sign of life, is passed over. */
export async function* serverSentEvents(body: ReadableStream<Uint8Array<ArrayBuffer>>): AsyncGenerator<string> {
  const reader = body.pipeThrough(new TextDecoderStream()).pipeThrough(new EventSourceParserStream()).getReader();
  try {
    for (let read = await reader.read(); !read.done; read = await reader.read()) yield read.value.data;
  } finally {
    await reader.cancel().catch(() => {});
  }
}
