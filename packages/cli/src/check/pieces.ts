import type { ExampleSequence } from "@tslm/lora";
import type { Tokenizer } from "@tslm/qwen";

/** One token, or as many as together make whole characters. */
export interface Piece {
  readonly ids: readonly number[];
  readonly text: string;
  /** Is it to be predicted, so that it counts for the loss? */
  readonly loss: boolean;
}

/** A sequence token by token, as text. */
export function piecesOf(
  { tokens, targets }: Pick<ExampleSequence, "tokens" | "targets">,
  tokenizer: Pick<Tokenizer, "tokenBytes">,
): Piece[] {
  const pieces: Piece[] = [];
  let ids: number[] = [];
  let bytes: number[] = [];
  let loss = false;
  const close = (text: string): void => {
    pieces.push({ ids, text, loss });
    [ids, bytes] = [[], []];
  };
  tokens.forEach((id, i) => {
    // A token carries loss when the one before it has to predict it.
    const carries = i > 0 && targets[i - 1] >= 0;
    if (ids.length > 0 && carries !== loss) close(decode(bytes));
    loss = carries;
    ids.push(id);
    bytes.push(...tokenizer.tokenBytes(id));
    const whole = decodeWhole(bytes);
    if (whole !== undefined || bytes.length > LONGEST_PART) close(whole ?? decode(bytes));
  });
  if (ids.length > 0) close(decode(bytes));
  return pieces;
}

/** Bytes that are no whole characters by then are none. */
const LONGEST_PART = 16;

function decode(bytes: readonly number[]): string {
  return new TextDecoder("utf-8", { ignoreBOM: true }).decode(Uint8Array.from(bytes));
}

function decodeWhole(bytes: readonly number[]): string | undefined {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(Uint8Array.from(bytes));
  } catch {
    return undefined;
  }
}
