/** A run of one piece of text is looked for up to this many characters. */
const LONGEST_PIECE = 80;

/** The piece that a text mostly repeats, one after another, or undefined. */
export function repeatedPiece(text: string): string | undefined {
  const characters = [...text.replace(/\s+/g, " ").trim()];
  for (let period = 1; period <= Math.min(LONGEST_PIECE, characters.length / 3); period++) {
    const times = period < 3 ? 6 : period < 12 ? 4 : 3;
    let run = 0;
    for (let i = period; i < characters.length; i++) {
      run = characters[i] === characters[i - period] ? run + 1 : 0;
      const covered = run + period;
      if (run > 0 && covered >= times * period && covered >= 0.4 * characters.length) {
        return characters.slice(i - run - period + 1, i - run + 1).join("");
      }
    }
  }
  return undefined;
}

/** The share of different triples of characters; low where a text turns in circles without exact repetition. */
function variety(text: string): number {
  const characters = [...text.replace(/\s+/g, "")];
  const triples = characters.slice(2).map((c, i) => characters[i] + characters[i + 1] + c);
  return triples.length < 40 ? 1 : new Set(triples).size / triples.length;
}

const SCRIPTS = [
  "Han",
  "Latin",
  "Cyrillic",
  "Greek",
  "Arabic",
  "Hebrew",
  "Thai",
  "Hangul",
  "Hiragana",
  "Katakana",
  "Devanagari",
];

/** Scripts that make up a noticeable part of a text's letters. */
function scriptsOf(text: string): Set<string> {
  const letters = text.match(/\p{L}/gu)?.length ?? 0;
  return new Set(
    SCRIPTS.filter((script) => (text.match(new RegExp(`\\p{Script=${script}}`, "gu"))?.length ?? 0) > 0.05 * letters),
  );
}

/** The share of letters and digits among all visible characters. */
function wordShare(text: string): number {
  const visible = text.replace(/\s+/g, "");
  return visible === "" ? 0 : (visible.match(/[\p{L}\p{N}]/gu)?.length ?? 0) / [...visible].length;
}

/** How an answer is broken. */
export interface Breakage {
  /** A base model may repeat itself too; what is meaningless comes from training. */
  kind: "repetition" | "meaningless";
  /** Continues the sentence `The answer …`. */
  how: string;
}

/**
 * What makes an answer that of a broken model; undefined for an answer that reads as one. `known` are texts that are in
 * order (question, expected answer): what they do, the answer may do.
 */
export function brokenAnswer(answer: string, known: readonly string[]): Breakage | undefined {
  const repetition = (how: string): Breakage => ({ kind: "repetition", how });
  const meaningless = (how: string): Breakage => ({ kind: "meaningless", how });
  const text = answer.trim();
  if (text === "") return meaningless("says nothing");
  const unreadable = text.match(/[\uFFFD\p{Co}\p{Cc}]/gu)?.filter((c) => c !== "\n" && c !== "\t").length ?? 0;
  if (unreadable > 0.05 * text.length) return meaningless("holds characters that are no text");
  if (text.length >= 4 && wordShare(text) < 0.3 && known.every((k) => k === "" || wordShare(k) >= 0.3)) {
    return meaningless("consists of signs instead of words");
  }
  const expected = new Set(known.flatMap((k) => [...scriptsOf(k)]));
  const foreign = [...scriptsOf(text)].filter((script) => !expected.has(script));
  if (foreign.length >= 3) return meaningless(`mixes ${foreign.join(", ")} letters`);
  const piece = repeatedPiece(text);
  if (piece !== undefined && !known.some((k) => repeatedPiece(k) !== undefined)) {
    return repetition(`repeats ${JSON.stringify(piece)}`);
  }
  return variety(text) < 0.35 ? repetition("turns in circles") : undefined;
}

/** Nats a token above which words are as good as drawn by lot: as many as twenty others were as likely. */
const GUESSING = 3;
/** And so much above what the model had before. */
const GROWN = 1.5;

/**
 * What makes an answer one of a broken model whatever it reads like: at each word the model hardly knew what to say.
 *
 * @param entropy mean of the answer's tokens, before training and after
 */
export function guessedAnswer(entropy: { before: number; after: number } | undefined): Breakage | undefined {
  if (entropy === undefined || entropy.after < GUESSING || entropy.after < entropy.before + GROWN) return undefined;
  const others = Math.round(Math.exp(entropy.after));
  return { kind: "meaningless", how: `is guessed, each word out of about ${others}` };
}
