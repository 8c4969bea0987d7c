import { HubError } from "./errors.ts";

const NAME = /^[A-Za-z0-9_][A-Za-z0-9._-]{0,95}\/[A-Za-z0-9_][A-Za-z0-9._-]{0,95}$/;
const REVISION = /^[A-Za-z0-9_][A-Za-z0-9._/-]{0,199}$/;

/** True for `org/name` as both hubs write it. */
export function isModelName(text: string): boolean {
  return NAME.test(text) && !text.includes("..") && !text.includes("--") && !/[.-](\/|$)/.test(text);
}

/** @throws HubError `invalid` unless the text is `org/name` */
export function checkModelName(text: string): void {
  if (isModelName(text)) return;
  throw new HubError(
    "invalid",
    `${JSON.stringify(text)} is not a model's name; write it as Qwen/Qwen2.5-0.5B-Instruct`,
  );
}

/** @throws HubError `invalid` unless the text can be a branch, tag or commit, safe as part of a path */
export function checkRevision(text: string): void {
  const parts = text.split("/");
  if (REVISION.test(text) && parts.every((part) => part !== "" && !part.startsWith(".") && !part.endsWith("."))) return;
  throw new HubError("invalid", `${JSON.stringify(text)} is not a revision; give a branch, tag or commit`);
}

/**
 * Refuses a file name that would leave the model's folder. The names come from a server.
 *
 * @throws HubError `protocol`
 */
export function checkFileName(name: string, hub: string): void {
  const parts = name.split("/");
  const unsafe =
    name === "" ||
    name.length > 1024 ||
    parts.some((part) => part === "" || part === "." || part === "..") ||
    name.includes("\\") ||
    /^[A-Za-z]:/.test(name) ||
    // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
    /[\u0000-\u001f\u007f]/.test(name);
  if (!unsafe) return;
  throw new HubError(
    "protocol",
    `${hub} lists the file ${JSON.stringify(name.slice(0, 200))}, which could be written outside the model's folder; nothing was downloaded`,
  );
}

const NEEDED = new Set([
  "config.json",
  "generation_config.json",
  "tokenizer.json",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "added_tokens.json",
  "vocab.json",
  "merges.txt",
  "chat_template.jinja",
  "chat_template.json",
  "model.safetensors.index.json",
]);

/** True for `model.safetensors` and the parts of a sharded one. */
export function isWeightFile(name: string): boolean {
  return /^model[A-Za-z0-9._-]{0,100}\.safetensors$/.test(name);
}

/** True for the files that running and fine-tuning read; not other formats of the weights, pictures or texts. */
export function isNeededFile(name: string): boolean {
  return NEEDED.has(name) || isWeightFile(name);
}
