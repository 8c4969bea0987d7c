import { afterAll } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DataError } from "./error.ts";

/** A folder of a test file's own, removed after its tests. */
export function useFolder(): { path(name: string): string; file(name: string, content: string | Uint8Array): string } {
  const folder = mkdtempSync(join(tmpdir(), "data-test-"));
  afterAll(() => rmSync(folder, { recursive: true, force: true }));
  const path = (name: string) => join(folder, name);
  return {
    path,
    file(name, content) {
      writeFileSync(path(name), content);
      return path(name);
    },
  };
}

/** The `DataError` that an action ends in; its message without the folder of the file that it begins with. */
export async function dataErrorOf(action: () => Promise<unknown>): Promise<DataError & { sentence: string }> {
  try {
    await action();
  } catch (error) {
    if (!(error instanceof DataError)) throw error;
    return Object.assign(error, { sentence: error.message.replace(/^.*?([^/\\]*?)(?=[:,] )/, "$1") });
  }
  throw new Error("the action did not fail");
}

let table: Map<string, readonly number[]> | undefined;

/** Text in GB18030, as far as its two-byte part goes (all of GBK). */
export function encodeGbk(text: string): Uint8Array {
  table ??= buildTable();
  const bytes: number[] = [];
  for (const character of text) {
    const code = character.charCodeAt(0) < 0x80 ? [character.charCodeAt(0)] : table.get(character);
    if (!code) throw new Error(`${character} is not in GBK`);
    bytes.push(...code);
  }
  return Uint8Array.from(bytes);
}

/** All two-byte characters that the platform's decoder knows. */
function buildTable(): Map<string, readonly number[]> {
  const codes = new Map<string, readonly number[]>();
  const decoder = new TextDecoder("gb18030");
  for (let lead = 0x81; lead <= 0xfe; lead++) {
    for (let trail = 0x40; trail <= 0xfe; trail++) {
      const character = decoder.decode(Uint8Array.of(lead, trail));
      if (character.length === 1 && character !== "\ufffd") codes.set(character, [lead, trail]);
    }
  }
  return codes;
}

/** Text in UTF-16 with its byte order mark. */
export function encodeUtf16(text: string, isLittleEndian: boolean): Uint8Array {
  const bytes = new Uint8Array(2 * text.length + 2);
  const view = new DataView(bytes.buffer);
  view.setUint16(0, 0xfeff, isLittleEndian);
  for (let i = 0; i < text.length; i++) view.setUint16(2 * i + 2, text.charCodeAt(i), isLittleEndian);
  return bytes;
}
