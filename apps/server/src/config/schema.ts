import { z } from "@hono/zod-openapi";
import { CACHE_TYPES } from "@tslm/qwen";
import { CONTEXT_POLICIES } from "../backend.ts";
import { boolean, integer, is, listOf, notEmptyText, oneOf, strict } from "../http/checks.ts";
import { DEFAULT_LIMITS, type Limits } from "../limits.ts";
import { LOG_LEVELS } from "../log.ts";

const name = () => notEmptyText(200);

/** A key that clients send; only its hash is kept. */
export const apiKeySchema = strict(
  {
    /** What the log and the limits call it. */
    name: name(),
    sha256: z.string(is("a SHA-256 in hexadecimal")).regex(/^[0-9a-f]{64}$/, {
      error: "must be a SHA-256 in hexadecimal, 64 small letters and digits: printf %s KEY | sha256sum",
    }),
    /** May load and unload adapters. */
    admin: boolean().default(false),
    /** Requests that may run or wait at once. */
    concurrency: integer(1, 10_000).optional(),
    requestsPerMinute: integer(1, 1_000_000).optional(),
    /** Prompts and answers together. */
    tokensPerMinute: integer(1, 1_000_000_000).optional(),
    /** Higher ones are answered first. */
    priority: integer(-10, 10).default(0),
    /** Models and adapters this key may ask; all unless given. */
    models: listOf(name(), 1000, "a list of names").optional(),
  },
  "a key {name, sha256}",
);
export type ApiKey = z.output<typeof apiKeySchema>;

const BOUNDS: { readonly [K in keyof Limits]: readonly [number, number] } = {
  bodyBytes: [1 << 10, 1 << 28],
  bodySeconds: [1, 3600],
  receivingBytes: [1 << 10, 2 ** 40],
  nesting: [4, 200],
  messageLength: [1, 1 << 24],
  historyLength: [0, 100_000],
  maxTokens: [1, 1 << 20],
  choices: [1, 128],
  inputs: [1, 2048],
  tools: [0, 128],
  stops: [0, 64],
  topLogprobs: [0, 100],
  concurrency: [1, 1024],
  queue: [0, 10_000],
  perClient: [1, 10_000],
  answerSeconds: [1, 86_400],
  unreadBytes: [1 << 16, 1 << 30],
  openRequests: [1, 100_000],
  // Bun's timers of connections go by steps of 4 seconds: one of 4 could be over at once.
  idleSeconds: [8, 240],
};

const limitsSchema = strict(
  Object.fromEntries(
    Object.entries(BOUNDS).map(([key, [least, most]]) => [
      key,
      integer(least, most).default(DEFAULT_LIMITS[key as keyof Limits]),
    ]),
  ) as { [K in keyof Limits]: z.ZodDefault<ReturnType<typeof integer>> },
  "an object of limits",
);

/** How the server behaves. */
const behaviour = {
  limits: limitsSchema.prefault({}),
  /** Tokens of an answer whose request to `/chat` does not say. */
  maxTokens: integer(1, 1 << 20).default(512),
  /** Seed of a request to `/chat` that brings none. */
  seed: integer(0, Number.MAX_SAFE_INTEGER).default(0),
  contextPolicy: oneOf(CONTEXT_POLICIES).default("error"),
  apiKeys: listOf(apiKeySchema, 10_000, "a list of keys").default([]),
  /** Web pages of these origins may call the server, such as https://example.com; * is all. */
  corsOrigins: listOf(name(), 1000, "a list of origins").default([]),
  /** Names by which the server is called besides this computer's own; looked at where there are no keys. */
  hosts: listOf(name(), 1000, "a list of host names").default([]),
  /** Takes the client's address from X-Forwarded-For: only behind a proxy that sets it. */
  trustProxy: boolean().default(false),
  /** Requests a minute of a client without a key of its own limit. */
  requestsPerMinute: integer(1, 1_000_000).optional(),
  /** Other names for the model and its adapters. */
  aliases: z.record(name(), name(), is("an object of names")).default({}),
  /** Adapters may be loaded from below this folder while the server runs. */
  adapterRoot: name().optional(),
  /** Seconds between looks at whether adapters on disk were replaced; 0 never looks. */
  adapterReloadSeconds: integer(0, 86_400).default(2),
  /** Conversations are kept in this SQLite file; nowhere unless given. */
  conversations: name().optional(),
  /** Days after which a conversation that was not continued is erased. */
  conversationDays: integer(1, 36_500).default(30),
  /** Seconds without a sign of life after which /health fails. */
  stallSeconds: integer(1, 3600).default(60),
  /** Seconds that answers get to end when the server ends. */
  drainSeconds: integer(0, 3600).default(30),
  logLevel: oneOf(LOG_LEVELS).default("info"),
};
export const configSchema = strict(behaviour, "an object of settings");

export type ServerConfig = z.output<typeof configSchema>;
export type ServerConfigInput = z.input<typeof configSchema>;

/** All settings of `bun run serve`: what is served, where, and how. A file, the environment and flags give them alike. */
export const serveSchema = strict(
  {
    ...behaviour,
    /** A model's name, folder or GGUF file. */
    model: name().optional(),
    /** Folders or GGUF files; the first one answers by default. */
    adapters: listOf(name(), 1000, "a list of folders").default([]),
    host: name().default("127.0.0.1"),
    /** 0 takes a free one. */
    port: integer(0, 65_535).default(8000),
    device: oneOf(["auto", "cpu", "gpu", "reference"]).default("auto"),
    threads: integer(1, 1024).optional(),
    precision: oneOf(["f32", "bf16"]).default("f32"),
    quantize: oneOf(["q8", "q4"]).optional(),
    /** Memory of the key/value cache. */
    cacheMegabytes: integer(1, 1 << 20).default(512),
    /** How keys and values are kept there: q8_0 holds 3.76 times as many, rounded to 8 bits. */
    cacheType: oneOf(CACHE_TYPES).default("f32"),
    /** Seconds without a sign of life, with work to do, after which the model's thread is ended and started again; 0 never is. */
    stallRestartSeconds: integer(0, 86_400).default(120),
  },
  "an object of settings",
);
export type ServeConfig = z.output<typeof serveSchema>;

/** Of all settings those that `createApp` takes. */
export function serverConfigOf(config: ServeConfig): ServerConfig {
  return Object.fromEntries(
    Object.keys(behaviour).map((name) => [name, config[name as keyof ServerConfig]]),
  ) as ServerConfig;
}
