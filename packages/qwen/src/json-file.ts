import { readFile, stat } from "node:fs/promises";
import { ModelFileError } from "./errors.ts";

/** True if a file-system error says that the path does not exist. */
export function isMissing(error: unknown): boolean {
  const code = (error as NodeJS.ErrnoException | null)?.code;
  return code === "ENOENT" || code === "ENOTDIR";
}

/**
 * Reads a text file of bounded size. Model folders come from strangers, so nothing is read whole before its size is known.
 *
 * @returns the text, or undefined if the file does not exist
 * @throws ModelFileError if it is not a regular file, is larger than `maxBytes`, is not UTF-8, or cannot be read
 */
export async function readTextFile(file: string, maxBytes: number): Promise<string | undefined> {
  let bytes: Uint8Array;
  try {
    const info = await stat(file);
    if (!info.isFile()) throw new ModelFileError(file, "is not a regular file");
    if (info.size > maxBytes) {
      throw new ModelFileError(file, `has ${info.size} bytes; at most ${maxBytes} are accepted for this kind of file`);
    }
    bytes = await readFile(file);
  } catch (error) {
    if (error instanceof ModelFileError) throw error;
    if (isMissing(error)) return undefined;
    throw new ModelFileError(file, `cannot be read: ${(error as Error).message}`, { cause: error });
  }
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (error) {
    throw new ModelFileError(file, "is not UTF-8 text; download it again", { cause: error });
  }
}

/**
 * Reads and parses a JSON file of bounded size.
 *
 * @returns the value, or undefined if the file does not exist
 * @throws ModelFileError as `readTextFile`, and if the text is not JSON
 */
export async function readJsonFile(file: string, maxBytes: number): Promise<unknown> {
  const text = await readTextFile(file, maxBytes);
  if (text === undefined) return undefined;
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new ModelFileError(file, `is not valid JSON (${(error as Error).message}); download it again`, {
      cause: error,
    });
  }
}
