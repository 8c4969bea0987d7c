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
}

async function* serverSentEvents(body: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    text += decoder.decode(value, { stream: true });
    const blocks = text.split("\n\n");
    text = blocks.pop()!;
    for (const block of blocks) if (block.startsWith("data: ")) yield block.slice(6);
  }
}
