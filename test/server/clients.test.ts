import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { HumanMessage } from "@langchain/core/messages";
import { ChatOpenAI } from "@langchain/openai";
import { generateObject, generateText, jsonSchema, streamText, tool } from "ai";
import { Ollama } from "ollama";
import OpenAI from "openai";
import { temporaryFolder } from "../support/process.ts";
import { type Served, serveProcess, writeToolModel } from "../support/server.ts";

// One process serves all; machines may be slow and busy.
setDefaultTimeout(60_000);

const QUESTION = "免费空间有多大?";
const KEY = "s3cret";
let home: Awaited<ReturnType<typeof temporaryFolder>>;
let served: Served;
let model = "";
/** What the model says to the question when it is asked without chance. */
let answer = "";
let openai: OpenAI;

beforeAll(async () => {
  home = await temporaryFolder();
  model = join(home.path, "demo");
  await writeToolModel(model);
  served = await serveProcess(["--model", model, "--api-key", KEY, "--log-level", "error"]);
  openai = new OpenAI({ baseURL: `${served.url}/v1`, apiKey: KEY, maxRetries: 0 });
  const first = await openai.chat.completions.create({ model, messages: [{ role: "user", content: QUESTION }] });
  answer = first.choices[0].message.content!;
});
afterAll(async () => {
  // The log tells of errors alone here, and there was none.
  expect(served.running.stderr()).not.toContain('"level":50');
  await served[Symbol.asyncDispose]();
  await home[Symbol.asyncDispose]();
});

const ask = { role: "user" as const, content: QUESTION };
const WEATHER = {
  name: "get_weather",
  description: "The weather of a city",
  parameters: {
    type: "object",
    properties: { city: { type: "string", enum: ["Berlin", "北京"] } },
    required: ["city"],
    additionalProperties: false,
  },
};
const weatherTool = { type: "function" as const, function: WEATHER };
const PERSON = {
  type: "object",
  properties: { name: { type: "string", maxLength: 8 }, age: { type: "integer", minimum: 0, maximum: 99 } },
  required: ["name", "age"],
  additionalProperties: false,
};

describe("the openai client", () => {
  test("chats, with usage", async () => {
    expect(answer).toContain("GB");
    const { usage, choices, object } = await openai.chat.completions.create({ model, messages: [ask] });
    expect({ object, ...choices[0] }).toMatchObject({
      object: "chat.completion",
      finish_reason: "stop",
      message: { role: "assistant", content: answer, refusal: null },
    });
    expect(usage!.total_tokens).toBe(usage!.prompt_tokens + usage!.completion_tokens);
    expect(usage!.prompt_tokens_details!.cached_tokens).toBeGreaterThanOrEqual(0);
  });

  test("streams the same answer, and usage at the end", async () => {
    const stream = await openai.chat.completions.create({
      model,
      messages: [ask],
      stream: true,
      stream_options: { include_usage: true },
    });
    let text = "";
    const reasons: (string | null)[] = [];
    let usage: OpenAI.CompletionUsage | null | undefined;
    for await (const chunk of stream) {
      text += chunk.choices[0]?.delta.content ?? "";
      if (chunk.choices[0]?.finish_reason) reasons.push(chunk.choices[0].finish_reason);
      if (chunk.usage) usage = chunk.usage;
    }
    expect(text).toBe(answer);
    expect(reasons).toEqual(["stop"]);
    expect(usage!.completion_tokens).toBeGreaterThan(1);
  });

  test("the stream helper puts a message together", async () => {
    const runner = openai.chat.completions.stream({ model, messages: [ask], n: 2 });
    const final = await runner.finalChatCompletion();
    expect(final.choices.map(({ message }) => message.content)).toEqual([answer, answer]);
  });

  test("log-probabilities: of the token that was chosen, the likeliest first, and bytes that are the text", async () => {
    const { choices } = await openai.chat.completions.create({
      model,
      messages: [ask],
      logprobs: true,
      top_logprobs: 3,
      max_completion_tokens: 5,
    });
    const content = choices[0].logprobs!.content!;
    expect(content).toHaveLength(5);
    expect(choices[0].finish_reason).toBe("length");
    for (const { logprob, token, top_logprobs: top } of content) {
      expect(top).toHaveLength(3);
      expect(top[0]).toMatchObject({ token, logprob });
      expect(logprob).toBeLessThanOrEqual(0);
      expect(top[1].logprob).toBeLessThanOrEqual(logprob);
    }
    const bytes = Uint8Array.from(content.flatMap((token) => token.bytes!));
    expect(new TextDecoder().decode(bytes)).toStartWith(choices[0].message.content!.replace(/\ufffd+$/, ""));
  });

  test("stop, seed, n, penalties and logit_bias", async () => {
    const create = async (rest: Partial<OpenAI.ChatCompletionCreateParamsNonStreaming>) =>
      (await openai.chat.completions.create({ model, messages: [ask], max_tokens: 12, ...rest })).choices;
    const [stopped] = await create({ stop: [answer.slice(2, 4)] });
    expect(stopped).toMatchObject({ finish_reason: "stop", message: { content: answer.slice(0, 2) } });
    const random = { temperature: 2, seed: -7, messages: [{ role: "user" as const, content: "x" }] };
    const first = await create({ ...random, n: 3 });
    expect(first.map(({ index }) => index)).toEqual([0, 1, 2]);
    const texts = first.map(({ message }) => message.content);
    expect(new Set(texts).size).toBeGreaterThan(1);
    expect((await create({ ...random, n: 3 })).map(({ message }) => message.content)).toEqual(texts);
    // The token that comes first without it is made impossible.
    const [{ logprobs }] = await create({ logprobs: true });
    const { tokens } = (await (
      await fetch(`${served.url}/tokenize`, {
        method: "POST",
        headers: { Authorization: `Bearer ${KEY}` },
        body: JSON.stringify({ content: logprobs!.content![0].token }),
      })
    ).json()) as { tokens: number[] };
    const [banned] = await create({ logit_bias: { [tokens[0]]: -100 }, presence_penalty: 0.5, frequency_penalty: 0.5 });
    expect(banned.message.content).not.toStartWith(logprobs!.content![0].token);
  });

  test("completions: texts and tokens, several at once, echo, legacy log-probabilities, streams", async () => {
    const both = await openai.completions.create({ model, prompt: ["问:", "免费"], max_tokens: 4, n: 2, echo: true });
    expect(both.choices.map(({ index }) => index)).toEqual([0, 1, 2, 3]);
    expect(both.choices[3].text).toStartWith("免费");
    expect(both.choices[0].text).toBe(both.choices[1].text);
    const one = await openai.completions.create({ model, prompt: "免费", max_tokens: 4, logprobs: 2 });
    expect(`免费${one.choices[0].text}`).toBe(both.choices[2].text);
    expect(one.choices[0].logprobs!.token_logprobs).toHaveLength(4);
    expect(one.choices[0].logprobs!.text_offset![0]).toBe(0);
    const stream = await openai.completions.create({ model, prompt: ["免费", "免费"], max_tokens: 4, stream: true });
    const texts = ["", ""];
    for await (const { choices } of stream) for (const { index, text } of choices) texts[index] += text;
    expect(texts).toEqual([one.choices[0].text, one.choices[0].text]);
  });

  test("models, and one whose name is a path", async () => {
    const names = await Array.fromAsync(openai.models.list(), ({ id }) => id);
    expect(names).toEqual([model]);
    expect(await openai.models.retrieve(model)).toMatchObject({ id: model, object: "model" });
  });

  test("embeddings, as numbers and in the client's own base64", async () => {
    const input = ["免费空间", "免费空间", "x"];
    const { data, usage } = await openai.embeddings.create({ model, input });
    const floats = await openai.embeddings.create({ model, input, encoding_format: "float" });
    expect(data.map(({ embedding }) => embedding.length)).toEqual([128, 128, 128]);
    data.forEach(({ embedding }, i) => {
      embedding.forEach((x, k) => {
        expect(x).toBeCloseTo(floats.data[i].embedding[k], 6);
      });
    });
    expect(data[0].embedding).toEqual(data[1].embedding);
    expect(Math.hypot(...data[2].embedding)).toBeCloseTo(1, 5);
    expect(usage.prompt_tokens).toBeGreaterThan(2);
  });

  test("errors are the client's own classes, with param and code", async () => {
    const failed = async (body: object): Promise<InstanceType<typeof OpenAI.APIError>> => {
      const all = { model, messages: [ask], ...body } as OpenAI.ChatCompletionCreateParamsNonStreaming;
      return openai.chat.completions.create(all).then(
        () => expect.unreachable(),
        (error) => error,
      );
    };
    const bad = await failed({ temperature: 3 });
    expect(bad).toBeInstanceOf(OpenAI.BadRequestError);
    expect(bad).toMatchObject({ status: 400, type: "invalid_request_error", param: "temperature", code: null });
    expect(bad.message).toContain("temperature must be a number from 0 to 2, but is 3");
    expect(await failed({ model: "gpt-9" })).toMatchObject({ status: 404, code: "model_not_found", param: "model" });
    expect(await failed({ messages: [{ role: "user", content: "长".repeat(3000) }] })).toMatchObject({
      status: 400,
      code: "context_length_exceeded",
    });
    expect(await failed({ messages: [{ role: "robot", content: "x" }] })).toMatchObject({ param: "messages[0].role" });
    expect(await failed({ nonsense: 1 })).toMatchObject({ param: "nonsense", code: "unknown_parameter" });
    const image = [{ type: "image_url", image_url: { url: "data:," } }];
    expect((await failed({ messages: [{ role: "user", content: image }] })).message).toContain("reads text alone");
    const stranger = new OpenAI({ baseURL: `${served.url}/v1`, apiKey: "wrong", maxRetries: 0 });
    const refused = await stranger.models.list().catch((error: unknown) => error);
    expect(refused).toBeInstanceOf(OpenAI.AuthenticationError);
  });

  test("context_policy makes a long chat fit, and tells what it dropped", async () => {
    const long = Array.from({ length: 40 }, (_, i) => ({
      role: i % 2 ? ("assistant" as const) : ("user" as const),
      content: `${i} ${"很长的话".repeat(20)}`,
    }));
    const { usage } = await openai.chat.completions.create({
      model,
      messages: [...long, ask],
      max_tokens: 4,
      ...{ context_policy: "trim-oldest" },
    });
    const dropped = (usage!.prompt_tokens_details as { dropped_tokens?: number }).dropped_tokens;
    expect(dropped).toBeGreaterThan(100);
    expect(usage!.prompt_tokens).toBeLessThan(1024);
  });
});

describe("tools and JSON", () => {
  test("a tool that must be called is called with arguments that fit its schema", async () => {
    const { choices } = await openai.chat.completions.create({
      model,
      messages: [{ role: "user", content: "How is the weather in Berlin?" }],
      tools: [weatherTool],
      tool_choice: { type: "function", function: { name: "get_weather" } },
    });
    expect(choices[0].finish_reason).toBe("tool_calls");
    const [call] = choices[0].message.tool_calls as OpenAI.ChatCompletionMessageFunctionToolCall[];
    expect(call.function.name).toBe("get_weather");
    expect(["Berlin", "北京"]).toContain(JSON.parse(call.function.arguments).city);
    // Its result goes back into the conversation.
    const next = await openai.chat.completions.create({
      model,
      messages: [
        { role: "user", content: "How is the weather in Berlin?" },
        choices[0].message,
        { role: "tool", tool_call_id: call.id, content: '{"sky": "blue"}' },
      ],
      tools: [weatherTool],
      max_tokens: 8,
    });
    expect(next.usage!.prompt_tokens).toBeGreaterThan(100);
  });

  test("streams a call in the client's own helper", async () => {
    const runner = openai.chat.completions.stream({
      model,
      messages: [ask],
      tools: [weatherTool],
      tool_choice: "required",
    });
    const { choices } = await runner.finalChatCompletion();
    expect(choices[0].finish_reason).toBe("tool_calls");
    const [call] = choices[0].message.tool_calls as OpenAI.ChatCompletionMessageFunctionToolCall[];
    expect(JSON.parse(call.function.arguments)).toHaveProperty("city");
  });

  test("json_schema and json_object give JSON", async () => {
    const json = async (format: OpenAI.ChatCompletionCreateParams["response_format"]) => {
      const { choices } = await openai.chat.completions.create({
        model,
        messages: [{ role: "user", content: "Reply with JSON." }],
        response_format: format,
        max_tokens: 300,
        temperature: 1,
        seed: 1,
      });
      return { text: choices[0].message.content!, reason: choices[0].finish_reason };
    };
    const { text } = await json({ type: "json_schema", json_schema: { name: "person", schema: PERSON, strict: true } });
    const person = JSON.parse(text);
    expect(Object.keys(person).sort()).toEqual(["age", "name"]);
    expect(person.age).toBeWithin(0, 100);
    const any = await json({ type: "json_object" });
    if (any.reason === "stop") expect(typeof JSON.parse(any.text)).toBe("object");
    else expect(any.text).toStartWith("{");
  });

  test("ignore_eos goes on behind the end until max_tokens", async () => {
    const asked = { model, messages: [ask], temperature: 0, max_tokens: 60 };
    const ended = await openai.chat.completions.create(asked);
    const { choices, usage } = await openai.chat.completions.create({ ...asked, ...{ ignore_eos: true } });
    expect([ended.choices[0].finish_reason, choices[0].finish_reason]).toEqual(["stop", "length"]);
    expect(choices[0].message.content).toStartWith(ended.choices[0].message.content!);
    expect(usage!.completion_tokens).toBe(60);
    expect(ended.usage!.completion_tokens).toBeLessThan(60);
  });

  test("stop_token_ids end an answer too, also where its own end is passed over", async () => {
    const headers = { Authorization: `Bearer ${KEY}` };
    const tokenized = await fetch(`${served.url}/tokenize`, {
      method: "POST",
      headers,
      body: JSON.stringify({ content: answer }),
    });
    const { tokens } = (await tokenized.json()) as { tokens: number[] };
    const asked = { model, messages: [ask], temperature: 0, max_tokens: 60, ...{ stop_token_ids: [tokens[3]] } };
    for (const rest of [{}, { ignore_eos: true }]) {
      const { choices, usage } = await openai.chat.completions.create({ ...asked, ...rest });
      expect([choices[0].finish_reason, usage!.completion_tokens]).toEqual(["stop", 3]);
      expect(answer).toStartWith(choices[0].message.content!);
    }
  });

  test("guided_regex", async () => {
    const { choices } = await openai.chat.completions.create({
      model,
      messages: [ask],
      ...{ guided_regex: "[0-9]{2}GB" },
    });
    expect(choices[0].message.content).toMatch(/^[0-9]{2}GB$/);
  });
});

describe("the ollama client", () => {
  const client = () => new Ollama({ host: served.url, headers: { Authorization: `Bearer ${KEY}` } });

  test("chats, whole and streamed", async () => {
    const whole = await client().chat({ model, messages: [ask] });
    expect(whole).toMatchObject({ done: true, done_reason: "stop", message: { role: "assistant", content: answer } });
    expect(whole.eval_count).toBeGreaterThan(1);
    let text = "";
    for await (const part of await client().chat({ model: `${model}:latest`, messages: [ask], stream: true })) {
      text += part.message.content;
    }
    expect(text).toBe(answer);
  });

  test("generates, with options and raw text", async () => {
    const { response } = await client().generate({ model, prompt: QUESTION });
    expect(response).toBe(answer);
    const short = await client().generate({ model, prompt: "免费", raw: true, options: { num_predict: 3 } });
    expect(short).toMatchObject({ done_reason: "length", eval_count: 3 });
    let text = "";
    for await (const part of await client().generate({ model, prompt: QUESTION, stream: true })) text += part.response;
    expect(text).toBe(answer);
  });

  test("lists, shows, embeds, and tells its version", async () => {
    expect((await client().list()).models.map(({ name }) => name)).toEqual([model]);
    const shown = await client().show({ model });
    expect(shown.details.family).toBe("qwen2");
    expect(shown.capabilities).toEqual(["completion", "tools"]);
    expect((await client().embed({ model, input: ["a", "b"] })).embeddings).toHaveLength(2);
    expect((await client().version()).version).toMatch(/^\d+\.\d+\.\d+$/);
  });

  test("JSON by a schema", async () => {
    const { message } = await client().chat({ model, messages: [ask], format: PERSON });
    expect(JSON.parse(message.content)).toHaveProperty("age");
  });

  test("errors are told in its words", async () => {
    await expect(client().chat({ model: "nothing", messages: [ask] })).rejects.toThrow("does not exist");
  });
});

describe("the Vercel AI SDK", () => {
  const provider = () =>
    createOpenAICompatible({
      name: "tslm",
      baseURL: `${served.url}/v1`,
      apiKey: KEY,
      includeUsage: true,
      supportsStructuredOutputs: true,
    });

  test("generates and streams text", async () => {
    const { text, usage, finishReason } = await generateText({ model: provider()(model), prompt: QUESTION });
    expect({ text, finishReason }).toEqual({ text: answer, finishReason: "stop" });
    expect(usage.inputTokens).toBeGreaterThan(5);
    const stream = streamText({ model: provider()(model), prompt: QUESTION });
    expect((await Array.fromAsync(stream.textStream)).join("")).toBe(answer);
    expect((await stream.usage).outputTokens).toBeGreaterThan(1);
  });

  test("calls tools and generates objects", async () => {
    const { toolCalls } = await generateText({
      model: provider()(model),
      prompt: QUESTION,
      tools: { get_weather: tool({ description: "weather", inputSchema: jsonSchema(WEATHER.parameters as object) }) },
      toolChoice: "required",
    });
    expect(toolCalls[0].toolName).toBe("get_weather");
    const { object } = await generateObject({
      model: provider()(model),
      prompt: QUESTION,
      schema: jsonSchema<{ age: number }>(PERSON as object),
    });
    expect(object.age).toBeWithin(0, 100);
  });
});

describe("LangChain", () => {
  const chat = () =>
    new ChatOpenAI({ model, apiKey: KEY, maxRetries: 0, configuration: { baseURL: `${served.url}/v1` } });

  test("invokes and streams", async () => {
    const { content, usage_metadata: usage } = await chat().invoke([new HumanMessage(QUESTION)]);
    expect(content).toBe(answer);
    expect(usage!.output_tokens).toBeGreaterThan(1);
    const pieces = await Array.fromAsync(await chat().stream(QUESTION), (piece) => piece.content);
    expect(pieces.join("")).toBe(answer);
  });

  test("binds tools and gives structured output", async () => {
    const { tool_calls: calls } = await chat().bindTools([weatherTool], { tool_choice: "required" }).invoke(QUESTION);
    expect(calls![0].name).toBe("get_weather");
    const person = await chat().withStructuredOutput(PERSON, { method: "jsonSchema", name: "person" }).invoke(QUESTION);
    expect(person).toHaveProperty("age");
  });
});
