import { z } from "@hono/zod-openapi";
import type { Message, PromptInput, Tool } from "../../backend.ts";
import { is, listOf, notEmptyText, strict } from "../../http/checks.ts";
import { jsonRoute, type Router, route } from "../../http/route.ts";
import type { Service } from "../../service.ts";
import { LooseCalls } from "../../tools/loose.ts";
import { answerAs, chatAnswer, chatLine, commonRequest, generateAnswer, generateLine, untagged } from "./answer.ts";
import { chatBody, generateBody, type OllamaChatBody } from "./schemas.ts";

/** The version of Ollama whose interface this is. */
const VERSION = "0.12.0";
const started = new Date().toISOString();

/** Ollama's interface, below `/api`. */
export function ollamaRoutes(app: Router, service: Service): void {
  const { limits, models, backend, answers } = service;
  const tag = "Ollama";

  jsonRoute(
    app,
    {
      method: "post",
      path: "/api/chat",
      tag,
      summary: "Answers a conversation; JSON lines unless `stream` is false",
      limits,
      body: chatBody(limits),
      answers: { description: "The answer", json: chatAnswer, line: chatLine },
      errors: [404],
    },
    async (c, body) => {
      const adapter = models.ofModel(untagged(body.model), c.get("client"));
      if (body.messages.length === 0)
        return c.json(loaded(body.model, { message: { role: "assistant", content: "" } }));
      const tools = (body.tools ?? []) as Tool[];
      const request = {
        ...commonRequest(body, service),
        adapter,
        prompt: { messages: body.messages.map(toMessage), ...(tools.length > 0 && { tools }) },
      };
      return answerAs(c, service, request, body.stream !== false, {
        model: body.model,
        withTools: tools.length > 0,
        loose: request.constraint ? undefined : new LooseCalls(tools),
        said: (content, calls) => ({
          message: {
            role: "assistant",
            content,
            ...(calls.length > 0 && {
              tool_calls: calls.map(({ name, arguments: json }) => ({ function: { name, arguments: objectOf(json) } })),
            }),
          },
        }),
      });
    },
  );

  jsonRoute(
    app,
    {
      method: "post",
      path: "/api/generate",
      tag,
      summary: "Answers a prompt; JSON lines unless `stream` is false",
      limits,
      body: generateBody(limits),
      answers: { description: "The answer", json: generateAnswer, line: generateLine },
      errors: [404],
    },
    async (c, body) => {
      const adapter = models.ofModel(untagged(body.model), c.get("client"));
      if (body.prompt === "") return c.json(loaded(body.model, { response: "" }));
      const messages: Message[] = [
        ...(body.system ? [{ role: "system" as const, content: body.system }] : []),
        { role: "user", content: body.prompt },
      ];
      const prompt: PromptInput = body.raw ? { text: body.prompt } : { messages };
      const request = { ...commonRequest(body, service), adapter, prompt };
      return answerAs(c, service, request, body.stream !== false, {
        model: body.model,
        withTools: false,
        said: (response) => ({ response }),
      });
    },
  );

  const detailsOf = () => {
    const { parameters, quantization } = backend.info;
    return {
      parent_model: "",
      format: "safetensors",
      family: "qwen2",
      families: ["qwen2"],
      parameter_size: `${(parameters / 1e6).toFixed(0)}M`,
      quantization_level: quantization ?? "none",
    };
  };
  const details = z.object({
    parent_model: z.string(),
    format: z.string(),
    family: z.string(),
    families: z.array(z.string()),
    parameter_size: z.string(),
    quantization_level: z.string(),
  });
  const entry = z
    .object({
      name: z.string(),
      model: z.string(),
      modified_at: z.string(),
      size: z.int(),
      digest: z.string(),
      details,
    })
    .openapi("OllamaModel");
  const entries = (names: readonly string[]) =>
    names.map((name) => ({
      ...{ name, model: name, modified_at: started, size: backend.info.parameters, digest: digestOf(name) },
      details: detailsOf(),
    }));

  route(
    app,
    {
      method: "get",
      path: "/api/tags",
      tag,
      summary: "The base model and the adapters",
      answers: { description: "They can be given as `model`", json: z.object({ models: z.array(entry) }) },
    },
    (c) => c.json({ models: entries(models.names.filter((name) => models.isAllowed(name, c.get("client")))) }),
  );
  route(
    app,
    {
      method: "get",
      path: "/api/ps",
      tag,
      summary: "The same: all are loaded",
      answers: { description: "What is in memory", json: z.object({ models: z.array(entry) }) },
    },
    (c) => c.json({ models: entries(models.names.filter((name) => models.isAllowed(name, c.get("client")))) }),
  );

  jsonRoute(
    app,
    {
      method: "post",
      path: "/api/show",
      tag,
      summary: "What is known of a model",
      limits,
      body: strict(
        { model: notEmptyText(1000).optional(), name: notEmptyText(1000).optional(), verbose: z.unknown().optional() },
        "a JSON object with model",
      ).refine(({ model, name }) => (model ?? name) !== undefined, { error: "must have a model", path: ["model"] }),
      answers: {
        description: "Its template and figures",
        json: z.object({
          template: z.string(),
          parameters: z.string(),
          details,
          model_info: z.record(z.string(), z.unknown()),
          capabilities: z.array(z.string()),
        }),
      },
      errors: [404],
    },
    (c, body) => {
      models.ofModel(untagged((body.model ?? body.name)!), c.get("client"));
      const { contextLength, hiddenSize, layers, parameters, vocabularySize, chatTemplate = "" } = backend.info;
      return c.json({
        template: chatTemplate,
        parameters: "",
        details: detailsOf(),
        model_info: {
          "general.architecture": "qwen2",
          "general.parameter_count": parameters,
          "qwen2.block_count": layers,
          "qwen2.context_length": contextLength,
          "qwen2.embedding_length": hiddenSize,
          "qwen2.vocabulary_size": vocabularySize,
        },
        capabilities: ["completion", ...(chatTemplate.includes("tools") ? ["tools"] : [])],
      });
    },
  );

  jsonRoute(
    app,
    {
      method: "post",
      path: "/api/embed",
      tag,
      summary: "Vectors of texts",
      limits,
      body: strict(
        {
          model: notEmptyText(1000),
          input: z.union(
            [
              notEmptyText(limits.bodyBytes),
              listOf(notEmptyText(limits.bodyBytes), limits.inputs, "a list of texts").min(1, is("a list of texts")),
            ],
            is("a text or a list of texts"),
          ),
          truncate: z.unknown().optional(),
          options: z.unknown().optional(),
          keep_alive: z.unknown().optional(),
        },
        "a JSON object with model and input",
      ),
      answers: {
        description: "Means of the base model's last hidden states",
        json: z.object({
          model: z.string(),
          embeddings: z.array(z.array(z.number())),
          prompt_eval_count: z.int(),
        }),
      },
      errors: [404],
    },
    async (c, body) => {
      models.baseOnly(untagged(body.model), c.get("client"));
      const { vectors, tokens } = await answers.embed(c, [body.input].flat());
      return c.json({ model: body.model, embeddings: vectors.map((v) => [...v]), prompt_eval_count: tokens });
    },
  );

  route(
    app,
    {
      method: "get",
      path: "/api/version",
      tag,
      summary: "The version of Ollama whose interface this is",
      answers: { description: "A number", json: z.object({ version: z.string() }) },
    },
    (c) => c.json({ version: VERSION }),
  );
}

/** What Ollama answers to a request that only loads a model. */
function loaded(model: string, said: object) {
  return { model, created_at: new Date().toISOString(), ...said, done: true, done_reason: "load" };
}

function toMessage({ role, content, tool_calls: calls }: OllamaChatBody["messages"][number]): Message {
  if (!calls?.length) return { role, content };
  const toolCalls = calls.map(({ function: { name, arguments: args } }) => ({ function: { name, arguments: args } }));
  return { role, content, toolCalls };
}

function objectOf(json: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(json);
    return typeof value === "object" && value !== null && !Array.isArray(value)
      ? (value as Record<string, unknown>)
      : {};
  } catch {
    return {};
  }
}

const digestOf = (name: string): string => new Bun.CryptoHasher("sha256").update(name).digest("hex");
