import { z } from "zod";
import type { DataErrorPlace } from "./error.ts";
import { checkRow, nameType, textField } from "./field.ts";
import { WEIGHT, weightField } from "./weight.ts";

export type Role = "system" | "user" | "assistant";

/** One message of a conversation. */
export interface Message {
  role: Role;
  content: string;
  /** Of an assistant's message: 0 keeps it as context that is not to be learned, as in OpenAI's format. */
  weight?: 0 | 1;
}

/** A conversation, the oldest message first. */
export interface Conversation {
  messages: Message[];
  /** How much the row counts in training, above 0; 1 unless given. */
  weight?: number;
}

/** How rows hold conversations, by the names of the fields. */
export type ConversationFormat = "messages" | "sharegpt" | "prompt-completion";

/** Other names that tools give the three roles. */
const ROLES: Readonly<Record<string, Role>> = {
  system: "system",
  developer: "system",
  user: "user",
  human: "user",
  assistant: "assistant",
  gpt: "assistant",
  chatgpt: "assistant",
  model: "assistant",
  bot: "assistant",
};
/** Turns of tools: they are known, but not trained on. */
const TOOL_ROLES = ["tool", "function", "function_call", "observation", "ipython"];

const role = z.string({ error: ({ input }) => describeRole(input) }).transform((text, context): Role => {
  const known = Object.hasOwn(ROLES, text) ? ROLES[text] : undefined;
  if (known !== undefined) return known;
  const message = TOOL_ROLES.includes(text)
    ? `the turn is a tool's (${JSON.stringify(text)}), which cannot be trained on here; remove the row or the turn`
    : describeRole(text);
  context.addIssue({ code: "custom", message });
  return z.NEVER;
});

function describeRole(value: unknown): string {
  const found = typeof value === "string" ? JSON.stringify(value) : nameType(value);
  return `the role is ${found}; it must be "system", "user" or "assistant" (or "human" and "gpt" as ShareGPT says)`;
}

/** A text, or OpenAI's list of text parts, which are joined. */
function contentField(maxCellLength: number | undefined) {
  const text = textField(maxCellLength);
  const part = z.object(
    {
      type: z.literal("text", {
        error: ({ input }) => `the part is ${JSON.stringify(input)}, but only "text" can be trained on; remove it`,
      }),
      text,
    },
    { error: ({ input }) => `the part is ${nameType(input)}; an object with "type" and "text" is needed` },
  );
  const parts = z
    .array(part)
    .transform((list) => list.map((one) => one.text).join(""))
    .pipe(text);
  return z.unknown().transform((value, context) => {
    const result = (Array.isArray(value) ? parts : text).safeParse(value);
    if (result.success) return result.data;
    passOn(context, result.error);
    return z.NEVER;
  });
}

/** Tells an inner check's problems as they are: what kind, where, in which words. */
function passOn(context: z.RefinementCtx, { issues }: z.ZodError): void {
  context.issues.push(...issues.map((issue) => ({ ...issue, input: undefined }) as z.core.$ZodRawIssue));
}

const weight = z
  .union([z.literal(0), z.literal(1)], { error: "the weight must be 0 (not to be learned) or 1" })
  .optional();

/** What would be lost without a word. */
const noCalls = z
  .unknown()
  .refine((value) => value == null || (Array.isArray(value) && value.length === 0), {
    error: "the turn calls a tool, which cannot be trained on here; remove the row or the turn",
  })
  .optional();

interface Keys {
  readonly role: "role" | "from";
  readonly content: "content" | "value";
}
const OPENAI: Keys = { role: "role", content: "content" };
const SHAREGPT: Keys = { role: "from", content: "value" };

function turnSchema({ role: roleKey, content: contentKey }: Keys, maxCellLength: number | undefined) {
  const shape: Record<string, z.ZodType> = {
    tool_calls: noCalls,
    function_call: noCalls,
    [roleKey]: role,
    [contentKey]: contentField(maxCellLength),
    weight,
  };
  const error = ({ input }: { input?: unknown }) =>
    `the turn is ${nameType(input)}; an object with "${roleKey}" and "${contentKey}" is needed`;
  return z.object(shape, { error }).transform((turn): Message => {
    const message: Message = { role: turn[roleKey] as Role, content: turn[contentKey] as string };
    if (turn.weight !== undefined && message.role === "assistant") message.weight = turn.weight as 0 | 1;
    return message;
  });
}

function turnsSchema(keys: Keys, maxCellLength: number | undefined) {
  return z
    .array(turnSchema(keys, maxCellLength), {
      error: ({ input }) =>
        input === undefined
          ? "the field is missing, though the file's first row has it; add it (one file holds one format)"
          : `the value is ${nameType(input)} where a list of turns is needed`,
    })
    .min(1, { error: "the conversation has no turns; add them or remove the row" });
}

/** How a file's rows hold conversations. */
export interface ConversationShape {
  readonly format: ConversationFormat;
  /** The fields of a row that are used. */
  readonly fields: readonly string[];
  /** The check of one row; a line and a field of it are named by what it throws, a `DataError`. */
  readonly read: (value: unknown, place: DataErrorPlace) => Conversation;
}

/** How conversations lie in rows such as this first one; undefined where it holds none. */
export function conversationShape(
  first: unknown,
  { maxCellLength }: { maxCellLength?: number },
): ConversationShape | undefined {
  if (typeof first !== "object" || first === null || Array.isArray(first)) return undefined;
  const list = "messages" in first ? "messages" : "conversations" in first ? "conversations" : undefined;
  if (list !== undefined) {
    const turns = (first as Record<string, unknown>)[list];
    return listShape(list, isSharegpt(turns, list) ? SHAREGPT : OPENAI, maxCellLength);
  }
  return "prompt" in first && "completion" in first ? promptCompletionShape(maxCellLength) : undefined;
}

function isSharegpt(turns: unknown, list: string): boolean {
  const turn: unknown = Array.isArray(turns) ? turns[0] : undefined;
  if (typeof turn !== "object" || turn === null) return list === "conversations";
  return "from" in turn || (list === "conversations" && !("role" in turn));
}

function listShape(list: string, keys: Keys, maxCellLength: number | undefined): ConversationShape {
  const row = z
    .object(
      {
        [list]: turnsSchema(keys, maxCellLength),
        system: textField(maxCellLength).nullish(),
        [WEIGHT]: weightField,
      },
      rowError(list),
    )
    .transform((value): Conversation => {
      const messages = value[list] as Message[];
      const system = value.system as string | null | undefined;
      // LLaMA-Factory keeps ShareGPT's system text beside the turns.
      if (system && messages[0].role !== "system")
        return conversation([{ role: "system", content: system }, ...messages], value.weight);
      return conversation(messages, value.weight);
    });
  const format = keys === SHAREGPT ? "sharegpt" : "messages";
  return { format, fields: [list, "system", WEIGHT], read: (value, place) => checkRow(row, value, place) };
}

/** TRL's prompt and completion: texts, which become a user's and an assistant's turn, or lists of messages. */
function promptCompletionShape(maxCellLength: number | undefined): ConversationShape {
  const text = textField(maxCellLength);
  const turns = turnsSchema(OPENAI, maxCellLength);
  const side = (as: Role) =>
    z.unknown().transform((value, context): Message[] => {
      const result = Array.isArray(value) ? turns.safeParse(value) : text.safeParse(value);
      if (result.success) {
        return typeof result.data === "string" ? [{ role: as, content: result.data }] : result.data;
      }
      passOn(context, result.error);
      return z.NEVER;
    });
  const row = z
    .object(
      { prompt: side("user"), completion: side("assistant"), weight: weightField },
      rowError("prompt", "completion"),
    )
    .transform(({ prompt, completion, weight }): Conversation => {
      // Of a list only the completion is to be learned: an assistant's turn in the prompt is context.
      const context = prompt.map((turn) => (turn.role === "assistant" ? { ...turn, weight: 0 as const } : turn));
      return conversation([...context, ...completion], weight);
    });
  const fields = ["prompt", "completion", WEIGHT];
  return { format: "prompt-completion", fields, read: (value, place) => checkRow(row, value, place) };
}

function conversation(messages: Message[], rowWeight: unknown): Conversation {
  return rowWeight === undefined ? { messages } : { messages, weight: rowWeight as number };
}

function rowError(...fields: string[]) {
  const names = fields.map((field) => `"${field}"`).join(" and ");
  return {
    error: ({ input }: { input?: unknown }) => `the row is ${nameType(input)}; an object with ${names} is needed`,
  };
}
