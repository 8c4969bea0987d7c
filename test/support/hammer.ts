import { connect } from "node:net";

/** What became of the requests of a hammering. */
export interface Hammered {
  /** By what was asked: how many were answered whole. */
  readonly answered: Record<string, number>;
  /** Requests that this side gave up. */
  readonly cancelled: number;
  /** Bad requests, and those of them that were told so. */
  readonly malformed: number;
  readonly refused: number;
  /** 429 and 503, each with `Retry-After`. */
  readonly sentAway: number;
  /** What should not have come: neither a whole answer nor a clear error. */
  readonly wrong: string[];
}

export interface HammerOptions {
  readonly url: string;
  readonly model: string;
  readonly requests: number;
  /** Requests at once. */
  readonly clients: number;
  readonly seed?: number;
  /** Told after each request. */
  readonly onProgress?: (done: number) => void;
}

/** Numbers in [0, 1), the same for the same seed (mulberry32). */
export function randomNumbers(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

const MALFORMED = [
  "",
  "{",
  "[]",
  '{"message": 5}',
  `{"message": ${"[".repeat(500)}${"]".repeat(500)}}`,
  '{"message": "x", "temperature": 1e999}',
  '{"message": "x", "nonsense": 1}',
  "\xff\xfe",
];

const KINDS = ["chat", "chat stream", "openai", "openai stream", "ollama", "embeddings", "tokenize", "slow"] as const;

/**
 * Requests of all kinds at once: a fifth is given up on the way, a tenth is no request at all, some read byte by byte. An
 * answer counts when it ends once and its usage is that of its own prompt and limit, which differ from request to request.
 */
export async function hammer(options: HammerOptions): Promise<Hammered> {
  const { url, requests, clients, seed = 1 } = options;
  const random = randomNumbers(seed);
  const result = { answered: {} as Record<string, number>, cancelled: 0, malformed: 0, refused: 0, sentAway: 0 };
  const wrong: string[] = [];
  let next = 0;

  const post = (path: string, body: unknown, signal?: AbortSignal) =>
    fetch(url + path, {
      method: "POST",
      body: typeof body === "string" ? body : JSON.stringify(body),
      ...(signal && { signal }),
    });

  async function malformed(number: number): Promise<void> {
    result.malformed++;
    const path = random() < 0.5 ? "/chat" : "/v1/chat/completions";
    try {
      const response = await post(path, MALFORMED[number % MALFORMED.length]);
      const told = (await response.json()) as { error?: { message?: string } };
      if ([400, 503].includes(response.status) && told.error?.message) result.refused++;
      else wrong.push(`malformed request ${number}: ${response.status}`);
    } catch (error) {
      wrong.push(`malformed request ${number}: ${(error as Error).message}`);
    }
  }

  async function one(number: number): Promise<void> {
    if (random() < 0.1) return malformed(number);
    const kind = KINDS[number % KINDS.length];
    const abort = new AbortController();
    const isCancelled = random() < 0.2;
    // Some at once: on a fast machine an answer may be there within a few milliseconds.
    const timer = isCancelled ? setTimeout(() => abort.abort(), Math.max(0, random() * 60 - 20)) : undefined;
    try {
      const problem = await ask(kind, number, abort.signal);
      if (problem === "sent away") result.sentAway++;
      else if (problem !== undefined) wrong.push(`${kind} ${number}: ${problem}`);
      else result.answered[kind] = (result.answered[kind] ?? 0) + 1;
    } catch (error) {
      if (abort.signal.aborted) result.cancelled++;
      else wrong.push(`${kind} ${number}: ${(error as Error).message}`);
    } finally {
      clearTimeout(timer);
    }
  }

  /** Undefined when the answer is whole and its own. */
  async function ask(kind: (typeof KINDS)[number], number: number, signal: AbortSignal): Promise<string | undefined> {
    const text = `${"好".repeat(1 + (number % 40))}`;
    const messages = [{ role: "user", content: text }];
    const tokens = 1 + (number % 12);
    const sampling = { temperature: number % 2, seed: number };
    switch (kind) {
      case "chat":
      case "chat stream": {
        const stream = kind === "chat stream";
        const body = { message: text, adapter: null, max_tokens: tokens, stream, ...sampling };
        const response = await post("/chat", body, signal);
        if (response.status !== 200) return awayOr(response);
        const said = await response.text();
        const last = stream
          ? said
              .split("\n\n")
              .at(-3)!
              .replace(/^data: /, "")
          : said;
        if (stream && !said.endsWith("data: [DONE]\n\n")) return `a cut stream: ${said.slice(-200)}`;
        if (stream && said.split("finish_reason").length !== 2) return "ended not once";
        return checkUsage(JSON.parse(last), tokens, text);
      }
      case "openai":
      case "openai stream": {
        const stream = kind === "openai stream";
        const rest = stream ? { stream, stream_options: { include_usage: true } } : { n: 1 + (number % 2) };
        const body = { model: options.model, messages, max_tokens: tokens, ...rest, ...sampling };
        const response = await post("/v1/chat/completions", body, signal);
        if (response.status !== 200) return awayOr(response);
        const said = await response.text();
        if (stream && !said.endsWith("data: [DONE]\n\n")) return `a cut stream: ${said.slice(-200)}`;
        const value = JSON.parse(
          stream
            ? said
                .split("\n\n")
                .at(-3)!
                .replace(/^data: /, "")
            : said,
        );
        return checkUsage(value, tokens * (stream ? 1 : value.choices.length), text);
      }
      case "ollama": {
        const body = { model: options.model, messages, options: { num_predict: tokens, ...sampling } };
        const response = await post("/api/chat", body, signal);
        if (response.status !== 200) return awayOr(response);
        const last = JSON.parse((await response.text()).trim().split("\n").at(-1)!);
        if (last.done !== true) return "not done";
        return last.eval_count <= tokens ? undefined : `${last.eval_count} tokens instead of ${tokens}`;
      }
      case "embeddings": {
        const response = await post("/v1/embeddings", { model: options.model, input: [text, text] }, signal);
        if (response.status !== 200) return awayOr(response);
        const { data } = (await response.json()) as { data: { embedding: number[] }[] };
        return data.length === 2 && data[0].embedding.every((x, i) => x === data[1].embedding[i])
          ? undefined
          : "other vectors for one text";
      }
      case "tokenize": {
        const response = await post("/tokenize", { content: text }, signal);
        if (response.status !== 200) return awayOr(response);
        const { tokens: ids } = (await response.json()) as { tokens: number[] };
        const back = (await (await post("/detokenize", { tokens: ids }, signal)).json()) as { content?: string };
        return back.content === undefined || back.content === text ? undefined : "other text";
      }
      case "slow":
        return readSlowly(
          url,
          JSON.stringify({ message: text, adapter: null, max_tokens: tokens, stream: true }),
          signal,
        );
    }
  }

  const worker = async (): Promise<void> => {
    while (next < requests) {
      const number = next++;
      await one(number);
      options.onProgress?.(number);
    }
  };
  await Promise.all(Array.from({ length: clients }, worker));
  return { ...result, wrong };
}

async function awayOr(response: Response): Promise<string> {
  const text = await response.text();
  const isAway = [429, 503].includes(response.status) && response.headers.has("retry-after");
  return isAway ? "sent away" : `status ${response.status}: ${text.slice(0, 300)}`;
}

interface WithUsage {
  readonly usage: { readonly prompt_tokens: number; readonly completion_tokens: number };
}

function checkUsage({ usage }: WithUsage, most: number, text: string): string | undefined {
  if (usage.completion_tokens > most) return `${usage.completion_tokens} tokens instead of ${most}`;
  return usage.prompt_tokens >= Math.min(3, text.length) ? undefined : `${usage.prompt_tokens} tokens of prompt`;
}

/** Reads an answer a few bytes at a time. */
function readSlowly(url: string, body: string, signal: AbortSignal): Promise<string | undefined> {
  const { hostname, port } = new URL(url);
  const head = `POST /chat HTTP/1.1\r\nHost: ${hostname}\r\nConnection: close\r\nContent-Length: ${Buffer.byteLength(body)}\r\n\r\n`;
  return new Promise((resolve, reject) => {
    const socket = connect({ host: hostname, port: Number(port) });
    let said = "";
    const stop = (): void => {
      socket.destroy();
      reject(new Error("given up"));
    };
    signal.addEventListener("abort", stop);
    socket.on("connect", () => socket.write(head + body));
    socket.on("data", (data) => {
      said += data;
      socket.pause();
      setTimeout(() => socket.resume(), 5);
    });
    socket.on("error", reject);
    socket.on("close", () => {
      signal.removeEventListener("abort", stop);
      if (/^HTTP\/1.1 (429|503)/.test(said)) resolve("sent away");
      else resolve(said.includes("data: [DONE]") ? undefined : `a cut stream: ${said.slice(-200)}`);
    });
  });
}
