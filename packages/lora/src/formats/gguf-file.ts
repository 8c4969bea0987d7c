import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { openGguf } from "@tslm/tensor";

/** Metadata of ours in adapters and models: the text of a `prompt.json`. */
export const PROMPT_KEY = "tslm.prompt";
/** The GGUF file that a path means: that file itself, or the only one of a folder. */
export async function findGguf(path: string): Promise<string | undefined> {
  const found = await stat(path).catch(() => undefined);
  if (found?.isFile()) return path.toLowerCase().endsWith(".gguf") ? path : undefined;
  if (!found?.isDirectory()) return undefined;
  const files = (await readdir(path)).filter((name) => name.toLowerCase().endsWith(".gguf"));
  return files.length === 1 ? join(path, files[0]) : undefined;
}

/** The text of the `prompt.json` that a GGUF file carries; undefined where it has none. */
export async function readGgufPrompt(path: string): Promise<string | undefined> {
  const file = await openGguf(path).catch(() => undefined);
  const text = file?.metadata.get(PROMPT_KEY);
  file?.close();
  return typeof text === "string" ? text : undefined;
}
