/**
 * The alphabet of byte-level BPE: every byte has a printable character, so that vocabulary and merges are plain text.
 * Source: `bytes_to_unicode` of GPT-2's encoder, which Qwen2 uses unchanged.
 */
export const BYTE_TO_CHAR: readonly string[] = (() => {
  const printable = (byte: number) =>
    (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || (byte >= 0xae && byte <= 0xff);
  let next = 0x100;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(printable(byte) ? byte : next++));
})();

/** The byte of each character code of the alphabet, -1 elsewhere; the alphabet ends below 0x180. */
const BYTE_OF_CODE = new Int16Array(0x180).fill(-1);
BYTE_TO_CHAR.forEach((char, byte) => {
  BYTE_OF_CODE[char.charCodeAt(0)] = byte;
});

/** True if a token consists of characters of the alphabet. */
export function isByteLevel(token: string): boolean {
  for (let i = 0; i < token.length; i++) if ((BYTE_OF_CODE[token.charCodeAt(i)] ?? -1) < 0) return false;
  return true;
}

/** The bytes that a byte-level token stands for. */
export function bytesOfToken(token: string): Uint8Array {
  const bytes = new Uint8Array(token.length); // every character of the alphabet is one UTF-16 unit
  for (let i = 0; i < token.length; i++) bytes[i] = BYTE_OF_CODE[token.charCodeAt(i)]!;
  return bytes;
}
