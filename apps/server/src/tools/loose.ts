import { z } from "@hono/zod-openapi";
import type { Tool } from "../backend.ts";
import type { ToolCall } from "./parser.ts";

/** Keywords that only narrow texts. They are not looked at: a stranger's pattern could take for ever. */
const UNCHECKED = new Set(["pattern", "patternProperties", "format"]);
/** Keywords by which a small schema can ask for endless work. */
const REFERENCES = new Set(["$ref", "$dynamicRef", "$recursiveRef"]);

/**
 * Recognises calls that lack the marks the chat template asks for, as small models write them: an answer that is nothing but a JSON
 * object, bare or in a fence of Markdown, with the name of a known tool and arguments that fit its parameters. Any other JSON is an
 * answer.
 */
export class LooseCalls {
  readonly #tools: ReadonlyMap<string, Tool>;

  constructor(tools: readonly Tool[]) {
    this.#tools = new Map(tools.map((tool) => [tool.function.name, tool]));
  }

  /** Whether an answer that begins so may yet be a call. */
  mayBegin(text: string): boolean {
    const [, fence, json] = split(text);
    if (json === "") return true;
    // A fence that is still being written: its mark, or its language.
    if (fence === undefined && "```".startsWith(json)) return true;
    if (fence === "```" && "json".startsWith(json)) return true;
    if (fence !== undefined && /```\s*\S/.test(json)) return false;
    const begin = /^\{\s*(?:"([^"]*))?/.exec(json);
    if (!begin || (begin[1] === undefined && begin[0] !== json)) return false;
    const key = begin[1] ?? "";
    const isWhole = json.length > begin[0].length;
    return ["name", "arguments"].some((name) => (isWhole ? name === key : name.startsWith(key)));
  }

  /** The call that a whole answer is; undefined where it is none. */
  read(text: string): ToolCall | undefined {
    const [, fence, inner] = split(text.trimEnd());
    if (fence !== undefined && !inner.endsWith("```")) return undefined;
    let value: unknown;
    try {
      value = JSON.parse(fence === undefined ? inner : inner.slice(0, -3));
    } catch {
      return undefined;
    }
    const { name, arguments: args, ...others } = Object(value) as Record<string, unknown>;
    const tool = typeof name === "string" ? this.#tools.get(name) : undefined;
    if (!tool || Object.keys(others).length > 0 || !fits(args, tool.function.parameters ?? {})) return undefined;
    return { name: tool.function.name, arguments: JSON.stringify(args) };
  }
}

/** The mark that opens a fence, if there is one, and what follows. */
const split = (text: string) =>
  /^\s*(```(?:json)?\s*)?(.*)$/s.exec(text) as unknown as [string, string | undefined, string];

function fits(args: unknown, parameters: Readonly<Record<string, unknown>>): boolean {
  if (typeof args !== "object" || args === null || Array.isArray(args)) return false;
  try {
    return z.fromJSONSchema(bounded(parameters) as Parameters<typeof z.fromJSONSchema>[0]).safeParse(args).success;
  } catch {
    // A schema that cannot be checked: then nothing is known to fit it.
    return false;
  }
}

/** The schema without what is not looked at. @throws TypeError where it refers to schemas */
function bounded(schema: unknown): unknown {
  if (Array.isArray(schema)) return schema.map(bounded);
  if (typeof schema !== "object" || schema === null) return schema;
  const entries = Object.entries(schema).filter(([key, value]) => {
    if (REFERENCES.has(key) && typeof value === "string")
      throw new TypeError("schemas that refer to others are not followed");
    return !(UNCHECKED.has(key) && (typeof value === "string" || key === "patternProperties"));
  });
  return Object.fromEntries(entries.map(([key, value]) => [key, bounded(value)]));
}
