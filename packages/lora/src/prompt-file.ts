import { join } from "node:path";
import { AdapterError } from "./errors.ts";
import { checkJson, finishSave, readJson } from "./folder.ts";
import { findGguf, PROMPT_KEY, readGgufPrompt } from "./formats/gguf-file.ts";
import { PROMPT_FILE, type PromptFormat, promptFormatSchema } from "./prompt.ts";

/**
 * The `prompt.json` of an adapter's folder, or what a GGUF file carries in its place; undefined where there is none, as in
 * a folder that PEFT wrote.
 * @throws AdapterError when it is broken or of a newer format
 */
export async function readPrompt(folder: string): Promise<PromptFormat | undefined> {
  await finishSave(folder);
  const path = join(folder, PROMPT_FILE);
  const json = (await readJson(path)) ?? (await promptInGguf(folder));
  if (json === undefined) return undefined;
  if (typeof json !== "object" || json === null) throw new AdapterError(path, "is not a JSON object");
  return checkJson(promptFormatSchema, json, path);
}

async function promptInGguf(path: string): Promise<unknown> {
  const file = await findGguf(path);
  const text = file === undefined ? undefined : await readGgufPrompt(file);
  try {
    return text === undefined ? undefined : JSON.parse(text);
  } catch (cause) {
    throw new AdapterError(path, `${PROMPT_KEY} is not JSON (${(cause as Error).message})`, { cause });
  }
}
