import type { Message } from "../../backend.ts";
import type { OpenAIMessage } from "./schemas.ts";

type Content = OpenAIMessage["content"];

function textOf(content: Content): string {
  if (content == null) return "";
  if (typeof content === "string") return content;
  return content.map((part) => ("text" in part ? part.text : part.refusal)).join("\n");
}

/** Arguments are JSON in OpenAI's interface and an object in chat templates. */
function argumentsOf(json: string): Record<string, unknown> | string {
  try {
    const value: unknown = JSON.parse(json);
    return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : json;
  } catch {
    return json;
  }
}

/** OpenAI's messages as the chat template knows them. */
export function toMessages(messages: readonly OpenAIMessage[]): Message[] {
  return messages.map((message) => {
    const content = textOf(message.content);
    if (message.role === "developer") return { role: "system", content };
    if (message.role !== "assistant" || !message.tool_calls?.length) return { role: message.role, content };
    const toolCalls = message.tool_calls.map(({ function: { name, arguments: json } }) => ({
      function: { name, arguments: argumentsOf(json) },
    }));
    return { role: "assistant", content, toolCalls };
  });
}
