import type { ConstraintSpec, Tool } from "../backend.ts";
import { ApiError } from "../errors.ts";

/** Whether the model calls a tool: as it likes, never, some tool for sure, or this one. */
export type ToolChoice = "auto" | "none" | "required" | { readonly name: string };

/** What an answer's prompt ends with where a call is wanted: the model writes only the call. */
export const CALL_BEGIN = "<tool_call>\n";

/** The schema of a call that is wanted for sure. @throws ApiError when the named tool is not among them */
export function forcedCall(tools: readonly Tool[], choice: ToolChoice): ConstraintSpec | undefined {
  if (choice === "auto" || choice === "none") return undefined;
  const wanted = choice === "required" ? tools : tools.filter((tool) => tool.function.name === choice.name);
  if (wanted.length === 0) {
    const which = choice === "required" ? "there are no tools" : `no tool is called ${JSON.stringify(choice.name)}`;
    throw new ApiError("invalid_request", `tool_choice: ${which}; give it in tools`, { param: "tool_choice" });
  }
  const calls = wanted.map((tool) => ({
    type: "object",
    properties: {
      name: { const: tool.function.name },
      arguments: tool.function.parameters ?? { type: "object" },
    },
    required: ["name", "arguments"],
    additionalProperties: false,
  }));
  return { kind: "schema", schema: calls.length === 1 ? calls[0] : { anyOf: calls } };
}
