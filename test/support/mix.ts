import { randomNumbers } from "./hammer.ts";

/** A request whose answer is the same each time it is asked. */
export interface Asked {
  readonly name: string;
  readonly path: string;
  readonly body: Readonly<Record<string, unknown>>;
}

export interface Mixed {
  /** Answers that were compared. */
  readonly compared: number;
  readonly cancelled: number;
  /** Requests whose answer was another than alone, with both; or none at all. */
  readonly wrong: readonly string[];
}

/** What differs from one time to the next though the answer is the same. */
const FLEETING = new Set([
  ...["id", "created", "created_at", "cached_tokens"],
  ...["total_duration", "load_duration", "prompt_eval_duration", "eval_duration"],
]);
const steady = (text: string): string =>
  text
    .split("\n")
    .map((line) => {
      const json = line.replace(/^data: /, "");
      if (!json.startsWith("{")) return line;
      return JSON.stringify(JSON.parse(json), (key, value) => (FLEETING.has(key) ? undefined : value));
    })
    .join("\n");

/**
 * The text of a stream, all its pieces together: how they are cut depends on how many tokens a step brought.
 *
 * @param body lines of JSON, with or without `data: `
 */
function joined(body: string): string {
  const said = new Map<string, string>();
  const rest: string[] = [];
  const add = (key: string, text: string): void => void said.set(key, (said.get(key) ?? "") + text);
  for (const line of steady(body).split("\n")) {
    const value = line.startsWith("{") ? JSON.parse(line) : undefined;
    if (typeof value?.delta === "string") add("", value.delta);
    else if (value?.done === false) add("", value.message?.content ?? value.response);
    else if (value?.choices?.length > 0) {
      for (const { index, delta, text, logprobs, finish_reason, ...others } of value.choices) {
        add(`${index}`, delta?.content ?? text ?? "");
        for (const token of logprobs?.content ?? []) add(`${index} logprobs`, JSON.stringify(token));
        if (finish_reason) rest.push(`${index} ${finish_reason}`);
        if (delta?.tool_calls || others.error) rest.push(JSON.stringify({ ...delta, ...others }));
      }
    } else if (line !== "") rest.push(line);
  }
  return JSON.stringify([[...said].sort(), rest.sort()]);
}

async function ask(url: string, { path, body }: Asked, signal?: AbortSignal): Promise<string> {
  for (;;) {
    // Large models on slow machines may take longer than Bun waits.
    const init: BunFetchRequestInit = { method: "POST", body: JSON.stringify(body), timeout: false };
    const response = await fetch(url + path, { ...init, ...(signal && { signal }) });
    const text = await response.text();
    if (response.status === 200)
      return response.headers.get("content-type")?.includes("json;") ? steady(text) : joined(text);
    if (response.status !== 429) return `status ${response.status}: ${text.slice(0, 300)}`;
    await Bun.sleep(20);
  }
}

/** Each request alone, one after another. */
export async function askAlone(url: string, requests: readonly Asked[]): Promise<string[]> {
  const answers: string[] = [];
  for (const request of requests) answers.push(await ask(url, request));
  return answers;
}

/**
 * All requests in changing order, many at once, a fifth of them given up on the way; each that is answered must be answered as
 * alone.
 */
export async function askMixed(
  url: string,
  requests: readonly Asked[],
  alone: readonly string[],
  { clients, count, seed }: { clients: number; count: number; seed: number },
): Promise<Mixed> {
  const random = randomNumbers(seed);
  const wrong: string[] = [];
  let [next, compared, cancelled] = [0, 0, 0];
  const worker = async (): Promise<void> => {
    while (next < count) {
      next++;
      const which = Math.floor(random() * requests.length);
      const abort = new AbortController();
      const timer = random() < 0.2 ? setTimeout(() => abort.abort(), random() * 400) : undefined;
      try {
        const answer = await ask(url, requests[which], abort.signal);
        compared++;
        if (answer !== alone[which]) {
          wrong.push(
            `${requests[which].name}:\n  alone ${alone[which].slice(0, 600)}\n  mixed ${answer.slice(0, 600)}`,
          );
        }
      } catch (error) {
        if (abort.signal.aborted) cancelled++;
        else wrong.push(`${requests[which].name}: ${(error as Error).message}`);
      } finally {
        clearTimeout(timer);
      }
    }
  };
  await Promise.all(Array.from({ length: clients }, worker));
  return { compared, cancelled, wrong };
}

const SYSTEM = `You answer questions about a cloud storage service. ${"Be brief, be kind, say what you know. ".repeat(6)}`;
const CODE = "for (let i = 0; i < 10; i++) {\n  console.log(i);\n}\n";

/**
 * Requests of all kinds, each with one right answer: adapters, prompts that begin alike, texts that repeat themselves (so that
 * proposed tokens are right), sampling by a seed, several choices, constraints, log-probabilities, vectors.
 *
 * @param model the base model's name
 * @param adapters names of adapters
 */
export function requestsOfAllKinds(model: string, adapters: readonly string[], tokens: number): Asked[] {
  const questions = ["免费空间有多大?", "How do I reset my password?", "Who wrote Hamlet?", "用一句话介绍北京。"];
  const schema = {
    type: "object",
    properties: { name: { enum: ["Ada", "Bob"] }, gb: { enum: [15, 100] } },
    required: ["name", "gb"],
    additionalProperties: false,
  };
  const of = (name: string, path: string, body: Record<string, unknown>): Asked => ({ name, path, body });
  return [null, ...adapters].flatMap((adapter) => {
    const as = adapter ?? model;
    const chat = (rest: Record<string, unknown>) => ({ adapter, max_tokens: tokens, ...rest });
    const openai = (rest: Record<string, unknown>) => ({ model: as, max_tokens: tokens, temperature: 0, ...rest });
    const history = [
      { role: "system", content: SYSTEM },
      { role: "user", content: "Hello!" },
      { role: "assistant", content: "Hello! How can I help you?" },
    ];
    const messages = (content: string) => [
      { role: "system", content: SYSTEM },
      { role: "user", content },
    ];
    return [
      ...questions.map((message, i) => of(`${as} greedy ${i}`, "/chat", chat({ message }))),
      ...questions.map((message, i) =>
        of(`${as} history ${i}`, "/chat", chat({ message, history, stream: i % 2 === 0 })),
      ),
      ...[1, 2].map((seed) =>
        of(
          `${as} seed ${seed}`,
          "/chat",
          chat({ message: questions[0], history, temperature: 1.1, top_p: 0.95, seed }),
        ),
      ),
      of(`${as} repeats`, "/v1/completions", openai({ prompt: CODE.repeat(4), stream: true })),
      of(`${as} repeats, whole`, "/v1/completions", openai({ prompt: "a b c d e f g ".repeat(20), logprobs: 2 })),
      of(
        `${as} choices`,
        "/v1/chat/completions",
        openai({ messages: messages(questions[1]), n: 3, temperature: 0.9, seed: 7, logprobs: true, top_logprobs: 2 }),
      ),
      of(
        `${as} penalties`,
        "/v1/chat/completions",
        openai({
          ...{ messages: messages(questions[2]), temperature: 1, seed: 11, typical_p: 0.9, min_p: 0.02, top_k: 40 },
          ...{
            presence_penalty: 0.4,
            frequency_penalty: 0.3,
            repetition_penalty: 1.1,
            logit_bias: { 30: 2, 40: -100 },
          },
          ...{ stop: ["\n\n", "zzz"], stream: true, stream_options: { include_usage: true } },
        }),
      ),
      of(
        `${as} schema`,
        "/v1/chat/completions",
        openai({
          messages: messages(questions[3]),
          response_format: { type: "json_schema", json_schema: { name: "s", schema } },
        }),
      ),
      of(
        `${as} regex`,
        "/v1/completions",
        openai({ prompt: "A date:", guided_regex: "[0-9]{4}-[01][0-9]-[0-3][0-9]" }),
      ),
      of(`${as} ollama`, "/api/chat", {
        ...{ model: as, messages: messages(questions[0]), options: { num_predict: tokens, temperature: 0.8, seed: 5 } },
      }),
      ...(adapter === null ? [of("vectors", "/v1/embeddings", { model, input: [SYSTEM, ...questions] })] : []),
    ];
  });
}
