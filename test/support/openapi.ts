import Ajv2020 from "ajv/dist/2020.js";
import addFormats from "ajv-formats";

export interface Operation {
  readonly responses: Readonly<Record<string, { readonly content?: Readonly<Record<string, unknown>> }>>;
}
export interface Document {
  readonly paths: Readonly<Record<string, Readonly<Record<string, Operation>>>>;
}

// The document does not forbid further fields, as clients must bear new ones; here what it does not name is a fault.
function strict(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(strict);
  if (typeof value !== "object" || value === null) return value;
  const copy = Object.fromEntries(Object.entries(value).map(([key, child]) => [key, strict(child)]));
  const isObject = copy.type === "object" && "properties" in copy && !("additionalProperties" in copy);
  return isObject ? { ...copy, additionalProperties: false } : copy;
}

const pointer = (...parts: string[]): string =>
  parts.map((part) => `/${encodeURIComponent(part.replaceAll("~", "~0").replaceAll("/", "~1"))}`).join("");

/** The data of a body's server-sent events; comments are left out. */
export function eventsOf(body: string): string[] {
  const events = body.trim().split("\n\n");
  return events.filter((event) => !event.startsWith(":")).map((event) => event.replace(/^data: /, ""));
}

/** Holds answers to an OpenAPI document, each event and line of a stream on its own. */
export class DocumentCheck {
  readonly document: Document;
  readonly #ajv = new Ajv2020({ strict: false, allErrors: true });

  constructor(document: Document) {
    this.document = document;
    addFormats(this.#ajv);
    this.#ajv.addSchema(strict(document) as object, "api");
  }

  /** What is wrong with an answer, by the document; its body as text. */
  wrongs(path: string, method: string, response: Response, text: string): string[] {
    const what = `${method} ${path} ${response.status}`;
    const status = String(response.status);
    const described = this.document.paths[path][method].responses[status];
    if (!described) return [`${what} is not in the document: ${text.slice(0, 200)}`];
    if (!described.content) return text === "" ? [] : [`${what} should be empty`];
    const type = response.headers.get("content-type")?.split(";")[0] ?? "none";
    if (!(type in described.content)) return [`${what} is ${type}, not ${Object.keys(described.content)}`];
    const schema = ["paths", path, method, "responses", status, "content", type, "schema"];
    const check = (value: unknown, ...inner: string[]): string[] => {
      if (this.#ajv.validate({ $ref: `api#${pointer(...schema, ...inner)}` }, value)) return [];
      return [`${what}: ${this.#ajv.errorsText(this.#ajv.errors)} in ${JSON.stringify(value).slice(0, 300)}`];
    };
    switch (type) {
      case "application/json":
        return check(JSON.parse(text));
      case "text/event-stream":
        return eventsOf(text).flatMap((data) => [
          ...check({ data }),
          // A validator leaves contentSchema alone.
          ...(data === "[DONE]" ? [] : check(JSON.parse(data), "properties", "data", "anyOf", "1", "contentSchema")),
        ]);
      case "application/x-ndjson":
        return text
          .split("\n")
          .filter((line) => line !== "")
          .flatMap((line) => check(JSON.parse(line)));
      default:
        return check(text);
    }
  }
}
