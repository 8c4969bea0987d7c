import { copyFile, readFile, stat, writeFile } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import {
  CONFIG_FILE,
  type FileContent,
  isCard,
  PROMPT_FILE,
  RECORD_FILE,
  readRecord,
  saveFolder,
  WEIGHTS_FILE,
} from "@tslm/lora";

const CARD_FILE = "README.md";

/**
 * Copies a trial's adapter into the folder of the best; an interruption leaves the one that was there before, or this one.
 *
 * @throws AdapterError when the folder cannot be written
 */
export async function keepAdapter(trial: string, out: string): Promise<void> {
  // Finishes a save that was interrupted.
  await readRecord(trial);
  const files: Record<string, FileContent> = {};
  for (const name of [CONFIG_FILE, WEIGHTS_FILE, PROMPT_FILE, RECORD_FILE]) {
    const from = join(trial, name);
    if (await isThere(from)) files[name] = (path) => copyFile(from, path);
  }
  const card = await text(join(trial, CARD_FILE));
  const earlier = await text(join(out, CARD_FILE));
  if (card !== undefined && (earlier === undefined || isCard(earlier))) {
    const titled = card.replace(`# ${basename(resolve(trial))}\n`, () => `# ${basename(resolve(out))}\n`);
    files[CARD_FILE] = (path) => writeFile(path, titled);
  }
  await saveFolder(out, files);
}

const isThere = (path: string): Promise<boolean> =>
  stat(path).then(
    (found) => found.isFile(),
    () => false,
  );
const text = (path: string): Promise<string | undefined> => readFile(path, "utf8").catch(() => undefined);
