import type { TokenConstraint } from "../engine/types.ts";
import type { ConstraintTokenizer } from "./token-trie.ts";

const PIECES = [
  ...'true false null {" "} ": ," "] [" }, }} ]] [] {} {\n }\n ,\n ":" ", "\n 10 00 .5 e+ -1 2024 an the https :// \\" \\\\ \\u \\n'.split(
    " ",
  ),
  ...["  ", "    ", "\n  ", "\n    ", ' "', ": ", ", ", '": "', '": [', '": {', '",\n  "', "\t", "\r\n"],
  ...["name", "type", "kind", "value", "abc", "aaaa", "foo", "bar", "x-", "Hello", " world", "-01-", "T12:", "@"],
  ...["你", "你好", "世界。", "é", "ß", "😀", "日本語", "\u2028", "\ud7ff"],
];

/** 256 single bytes, pieces of JSON and of text, halves of characters, a control token and an end token. */
export function smallTokenizer(): ConstraintTokenizer & {
  readonly tokens: readonly Uint8Array[];
  readonly end: number;
} {
  const encoder = new TextEncoder();
  const half = encoder.encode("中文");
  const pieces = [...new Set(PIECES)].map((piece) => encoder.encode(piece));
  const parts = [half.slice(0, 2), half.slice(1, 4), half.slice(2, 5), encoder.encode("😀").slice(0, 3)];
  const control = encoder.encode("<|control|>");
  const tokens = [
    ...Array.from({ length: 256 }, (_, byte) => Uint8Array.of(byte)),
    ...pieces.filter((p) => p.length > 1),
  ];
  tokens.push(...parts, control, encoder.encode("<|end|>"));
  const end = tokens.length - 1;
  return {
    tokens,
    end,
    // Rows without a token, as embeddings are padded.
    size: tokens.length + 40,
    eosTokenId: end,
    tokenBytes: (id) => tokens[id] ?? new Uint8Array(0),
    isSpecial: (id) => id === end || id === end - 1,
  };
}

export function isSet(mask: Uint32Array, token: number): boolean {
  return (mask[token >> 5] & (1 << (token & 31))) !== 0;
}

export function tokensOf(mask: Uint32Array): number[] {
  const found: number[] = [];
  for (let token = 0; token < mask.length * 32; token++) if (isSet(mask, token)) found.push(token);
  return found;
}

/** Does a text, byte by byte, meet the constraint, and may it end there? */
export function meets(constraint: TokenConstraint, text: string, end: number): boolean {
  for (const byte of new TextEncoder().encode(text)) {
    if (!isSet(constraint.allowed(), byte)) return false;
    constraint.accept(byte);
  }
  return isSet(constraint.allowed(), end);
}

/** Tokens that bring a JSON text to its end, the best first. */
const CLOSING = [
  '"',
  "}",
  "]",
  "0",
  "e",
  "l",
  "u",
  "s",
  "r",
  "a",
  "t",
  ":",
  "1",
  "-",
  "2",
  "T",
  "Z",
  ".",
  "{",
  "[",
  ",",
];

/**
 * A text drawn from the masks: at each place any allowed token, and after `length` of them those that lead to the end.
 *
 * @returns undefined where it was not at its end after 20 times as many tokens
 * @throws Error where nothing is allowed at a place
 */
export function draw(
  constraint: TokenConstraint,
  tokenizer: ConstraintTokenizer & { readonly end: number },
  { length, random }: { length: number; random: () => number },
): string | undefined {
  const bytes: number[] = [];
  for (let step = 0; step < 20 * length + 400; step++) {
    const allowed = tokensOf(constraint.allowed());
    if (allowed.length === 0) throw new Error(`nothing may follow ${JSON.stringify(textOf(bytes))}`);
    if (allowed.includes(tokenizer.end) && (step >= length || allowed.length === 1 || random() < 0.1))
      return textOf(bytes);
    let token = allowed[Math.floor(random() * allowed.length)];
    if (step >= length && random() < 0.8) {
      const closing = CLOSING.map((text) => text.charCodeAt(0)).find((byte) => allowed.includes(byte));
      if (closing !== undefined) token = closing;
    }
    while (token === tokenizer.end) token = allowed[Math.floor(random() * allowed.length)];
    bytes.push(...tokenizer.tokenBytes(token));
    constraint.accept(token);
  }
  return undefined;
}

/** @throws TypeError for broken UTF-8 */
function textOf(bytes: readonly number[]): string {
  return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(Uint8Array.from(bytes));
}
