import { type OpenAPIHono, type RouteConfig, z } from "@hono/zod-openapi";
import type { Context, Env } from "../env.ts";
import type { Limits } from "../limits.ts";
import { readBody } from "./body.ts";
import { checkValue, parseJson } from "./json.ts";
import { type ErrorStyle, errorStyleOf } from "./show-error.ts";

export type Router = OpenAPIHono<Env>;

/** What the document says of a route's good answer. */
export interface Answers {
  readonly description: string;
  /** Of a JSON answer. */
  readonly json?: z.ZodType;
  /** The data of each server-sent event of a stream, and its name in the document. */
  readonly event?: { readonly name: string; readonly schema: z.ZodType };
  /** Of each line of a stream of JSON lines. */
  readonly line?: z.ZodType;
  /** Further content types. */
  readonly others?: Readonly<Record<string, z.ZodType>>;
  /** Default 200. */
  readonly status?: 200 | 201 | 204;
  /** What a 503 says, where it is an answer of the route's own and no error. */
  readonly unavailable?: z.ZodType;
}

interface Route {
  readonly method: "get" | "post" | "delete";
  /** With parameters in braces: `/adapters/{name}`. */
  readonly path: string;
  readonly tag: string;
  readonly summary: string;
  readonly answers: Answers;
  /** Statuses of errors this route may give besides those that all give. */
  readonly errors?: readonly number[];
  /** Needs no key. */
  readonly isOpen?: boolean;
  readonly params?: z.ZodObject;
}

const ERROR_NAMES: Record<ErrorStyle, string> = { plain: "Error", openai: "OpenAIError", ollama: "OllamaError" };
const plainError = z
  .object({ error: z.object({ message: z.string(), type: z.string(), param: z.string().optional() }) })
  .openapi(ERROR_NAMES.plain);
const openaiError = z
  .object({
    error: z.object({
      message: z.string(),
      type: z.string(),
      param: z.string().nullable(),
      code: z.string().nullable(),
    }),
  })
  .openapi(ERROR_NAMES.openai);
const ollamaError = z.object({ error: z.string() }).openapi(ERROR_NAMES.ollama);
const ERRORS: Record<ErrorStyle, z.ZodType> = { plain: plainError, openai: openaiError, ollama: ollamaError };

const WHEN: Record<number, string> = {
  400: "A field is wrong; `param` names it",
  401: "The API key is missing or wrong",
  403: "Not allowed to this key, host or origin",
  404: "There is no such model, adapter or thing",
  408: "The answer took too long, or the body did",
  409: "It is in use, or there already",
  413: "The body is too large",
  422: "The model cannot take it",
  429: "Too many requests; Retry-After says for how long to stay away",
  500: "A fault of the server; its log says which",
  503: "Loading, restarting or ending; Retry-After says when to try again",
};

/**
 * What an event of a stream is in the document: its data is JSON as said by `contentSchema`, or `[DONE]`. An error is the last event
 * of a stream that fails.
 */
function eventOf(app: Router, { name, schema }: NonNullable<Answers["event"]>, style: ErrorStyle): z.ZodType {
  app.openAPIRegistry.register(name, schema);
  const references = [name, ERROR_NAMES[style]].map((known) => ({ $ref: `#/components/schemas/${known}` }));
  const json = { contentMediaType: "application/json", contentSchema: { anyOf: references } };
  return z
    .object({ data: z.union([z.literal("[DONE]"), z.string().openapi(json as object)]) })
    .openapi({ description: "An event of the stream" });
}

/** Enters a route in the OpenAPI document. */
function register(app: Router, route: Route, body?: z.ZodType): void {
  const { method, path, tag, summary, answers, isOpen = false } = route;
  const style = errorStyleOf(path);
  const always = [403, 503, ...(isOpen ? [] : [401, 429, 500]), ...(body ? [400, 408, 413] : [])];
  const content: Record<string, { schema: z.ZodType }> = {};
  if (answers.json) content["application/json"] = { schema: answers.json };
  if (answers.event) content["text/event-stream"] = { schema: eventOf(app, answers.event, style) };
  if (answers.line) {
    const schema = z.union([answers.line, ERRORS[style]]).openapi({ description: "A line of the stream" });
    content["application/x-ndjson"] = { schema };
  }
  for (const [type, schema] of Object.entries(answers.others ?? {})) content[type] = { schema };
  const responses: RouteConfig["responses"] = {
    [answers.status ?? 200]: { description: answers.description, ...(Object.keys(content).length > 0 && { content }) },
  };
  for (const status of [...always, ...(route.errors ?? [])].sort()) {
    const schema = (status === 503 && answers.unavailable) || ERRORS[style];
    responses[status] = { description: WHEN[status], content: { "application/json": { schema } } };
  }
  app.openAPIRegistry.registerPath({
    method,
    path,
    tags: [tag],
    summary,
    ...(isOpen ? {} : { security: [{ key: [] }, {}] }),
    request: {
      ...(route.params && { params: route.params }),
      ...(body && { body: { required: true, content: { "application/json": { schema: body } } } }),
    },
    responses,
  });
}

const honoPath = (path: string): string => path.replaceAll(/\{(\w+)\}/g, ":$1");

/** A route without a body. */
export function route(app: Router, description: Route, handler: (c: Context) => Response | Promise<Response>): void {
  register(app, description);
  app.on(description.method.toUpperCase(), honoPath(description.path), handler);
}

/**
 * A route with a JSON body, which is read whatever its content type says. The handler gets it checked.
 *
 * @throws ApiError naming the field that is wrong
 */
export function jsonRoute<Schema extends z.ZodType>(
  app: Router,
  description: Route & { readonly body: Schema; readonly limits: Limits },
  handler: (c: Context, body: z.output<Schema>) => Response | Promise<Response>,
): void {
  const { body, limits, method, path } = description;
  register(app, description, body);
  app.on(method.toUpperCase(), honoPath(path), async (c) =>
    handler(c, checkValue(body, parseJson(await readBody(c, limits), limits.nesting))),
  );
}
