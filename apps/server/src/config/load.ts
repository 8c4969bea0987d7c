import { z } from "@hono/zod-openapi";
import { parse as parseYaml, YAMLParseError } from "yaml";
import { hashOfKey } from "../http/auth.ts";
import { type ServeConfig, serveSchema } from "./schema.ts";

/** A setting is wrong: where it was given, which one, and what it must be. */
export class ConfigError extends Error {
  override readonly name = "ConfigError";
}

type Settings = { [name: string]: unknown };

const PREFIX = "TSLM_";

/** Settings whose own keys are names that somebody chose. */
const FREE_NAMES = new Set(["aliases"]);

const kebab = (name: string): string => name.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
const camel = (name: string): string => name.replaceAll(/-([a-z])/g, (_, letter: string) => letter.toUpperCase());

/** A setting and its variable: `limits.bodyBytes` is TSLM_LIMITS_BODY_BYTES. */
interface Variable {
  readonly name: string;
  readonly path: readonly string[];
  readonly schema: z.ZodType;
}

function unwrapped(schema: z.ZodType): z.ZodType {
  let inner = schema;
  while (inner instanceof z.ZodDefault || inner instanceof z.ZodPrefault || inner instanceof z.ZodOptional) {
    inner = inner.unwrap() as z.ZodType;
  }
  return inner;
}

function variablesOf(schema: z.ZodType, path: readonly string[] = []): Variable[] {
  const inner = unwrapped(schema);
  if (inner instanceof z.ZodObject) {
    return Object.entries(inner.shape).flatMap(([key, value]) => variablesOf(value as z.ZodType, [...path, key]));
  }
  const name = PREFIX + path.map((key) => kebab(key).replaceAll("-", "_").toUpperCase()).join("_");
  return [{ name, path, schema: inner }];
}

/** The variables of the environment that are settings, in the schema's order. */
export const VARIABLES: readonly Variable[] = variablesOf(serveSchema);

/** Text of a variable as its setting is written: numbers and truths as such, lists separated by commas, the rest as JSON. */
function settingOf(text: string, schema: z.ZodType): unknown {
  if (schema instanceof z.ZodNumber) return text.trim() === "" ? text : Number(text);
  if (schema instanceof z.ZodBoolean) return { true: true, false: false }[text.toLowerCase()] ?? text;
  if (schema instanceof z.ZodString || schema instanceof z.ZodEnum) return text;
  try {
    return JSON.parse(text);
  } catch {
    return schema instanceof z.ZodArray ? text.split(",").map((item) => item.trim()) : text;
  }
}

/** Settings of the environment; TSLM_API_KEY is a key itself. */
export function settingsOfEnvironment(env: Readonly<Record<string, string | undefined>>): Settings {
  const settings: Settings = {};
  for (const { name, path, schema } of VARIABLES) {
    const text = env[name];
    if (text === undefined) continue;
    const parent = path.slice(0, -1).reduce<Settings>((at, key) => (at[key] ??= {}) as Settings, settings);
    parent[path.at(-1)!] = settingOf(text, schema);
  }
  const key = env[`${PREFIX}API_KEY`];
  if (key !== undefined && key !== "") settings.apiKeys = [plainKey(key), ...((settings.apiKeys as unknown[]) ?? [])];
  return settings;
}

/** A key that was given itself, not its hash: it may do everything. */
export function plainKey(key: string) {
  return { name: "default", sha256: hashOfKey(key), admin: true };
}

/** Settings of a file's text, YAML or JSON, whose names are written-with-dashes. @throws ConfigError */
export function settingsOfFile(text: string, file: string): Settings {
  let value: unknown;
  try {
    value = parseYaml(text) ?? {};
  } catch (cause) {
    if (!(cause instanceof YAMLParseError)) throw cause;
    throw new ConfigError(`${file}: ${cause.message.split("\n")[0]}`, { cause });
  }
  return camelNames(value) as Settings;
}

function camelNames(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(camelNames);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).map(([key, inner]) => [camel(key), FREE_NAMES.has(key) ? inner : camelNames(inner)]),
  );
}

/** Where settings were given, the strongest first. */
export interface ConfigSources {
  readonly flags?: Settings;
  readonly env?: Readonly<Record<string, string | undefined>>;
  readonly file?: { readonly path: string; readonly text: string };
}

/**
 * The settings: a flag wins over the environment, that over the file, and that over the default. Lists are taken whole, but keys of
 * the environment and of the file are all valid.
 *
 * @throws ConfigError naming where the wrong setting was given
 */
export function loadConfig({ flags = {}, env = {}, file }: ConfigSources): ServeConfig {
  const layers: [string, Settings][] = [
    ...(file ? [[file.path, settingsOfFile(file.text, file.path)] as [string, Settings]] : []),
    ["the environment", settingsOfEnvironment(env)],
    ["the command line", flags],
  ];
  let merged: Settings = {};
  for (const [where, settings] of layers) {
    check(settings, where);
    merged = merge(merged, settings);
  }
  return check(merged, "the settings");
}

function merge(below: Settings, above: Settings): Settings {
  const merged: Settings = { ...below };
  for (const [name, value] of Object.entries(above)) {
    if (value === undefined) continue;
    const before = merged[name];
    const isNested = name === "limits" || FREE_NAMES.has(name);
    if (isNested) merged[name] = { ...(before as Settings | undefined), ...given(value as Settings) };
    else if (name === "apiKeys") merged[name] = [...((before as unknown[]) ?? []), ...(value as unknown[])];
    else merged[name] = value;
  }
  return merged;
}

/** Without what a flag leaves open. */
function given(settings: Settings): Settings {
  return Object.fromEntries(Object.entries(settings).filter(([, value]) => value !== undefined));
}

function check(settings: Settings, where: string): ServeConfig {
  const result = serveSchema.safeParse(settings);
  if (result.success) return result.data;
  const issue = result.error.issues[0];
  const unknown = issue.code === "unrecognized_keys" ? [issue.keys[0]] : [];
  const path = [...issue.path, ...unknown];
  const variable = VARIABLES.find((known) => known.path.join() === path.join());
  const isEnvironment = where === "the environment" && variable !== undefined;
  const name = isEnvironment ? variable.name : path.map((part) => kebab(String(part))).join(".");
  throw new ConfigError(isEnvironment ? `${name} ${issue.message}` : `${where}: ${name} ${issue.message}`);
}
