/** One spelling for what means the same: full-width letters and digits narrow, 1,024 as 1024, no capitals. */
function normalize(text: string): string {
  return text
    .normalize("NFKC")
    .replace(/(?<=\d),(?=\d{3}(?!\d))/g, "")
    .toLowerCase();
}

/** A number with the letters that belong to it: `15GB`, `15 GB`, `A1`, `2024-05-01`, `10:30`, `3.5%`. */
const NUMBER =
  /(?<![a-z0-9])[a-z]{0,8}\d+(?:[.:/-]\d+)*(?:[a-z%°]{1,4}(?![a-z])|\s(?:[kmgtp]i?b|%|°c|usd|cny|rmb)(?![a-z]))?/g;
/** A word of Latin letters, with the signs that hold names, addresses and commands together. */
const WORD = /(?<![a-z0-9])[a-z][a-z0-9]*(?:[._/@:-]+[a-z0-9]+)*/g;
const HAN = /\p{Script=Han}/gu;
const LETTER = /\p{L}/gu;

function count(text: string, pattern: RegExp): number {
  return text.match(pattern)?.length ?? 0;
}

/**
 * What a right answer must say: the numbers of the expected answer, and its rare words, which are Latin words in
 * Chinese text and names such as `feiyue-sdk` anywhere. What the question says already is no fact.
 */
export function keyFacts(expected: string, question = ""): string[] {
  const text = normalize(expected);
  const numbers = text.match(NUMBER) ?? [];
  const chinese = count(text, HAN) > 0.3 * count(text, LETTER);
  const words = (text.match(WORD) ?? []).filter((word) => word.length > 1 && (chinese || /[._/@:-]/.test(word)));
  const facts = new Set([...numbers, ...words].map((fact) => fact.replace(/\s/g, "")));
  // A number inside a longer fact, as the 15 of 15gb, is not one more.
  return [...facts].filter(
    (fact) => !says(question, fact) && ![...facts].some((other) => other !== fact && says(other, fact)),
  );
}

/** Does a text hold a fact as a whole: `15GB` also as `15 GB`, but not in `115GB` or `15GBit`? */
export function says(text: string, fact: string): boolean {
  const pattern = normalize(fact)
    .replace(/\s/g, "")
    .replace(/[.*+?^${}()|[\]\\/-]/g, "\\$&")
    .replace(/(?<=\d)(?=[a-z%°])/g, "\\s*");
  return new RegExp(`(?<![a-z0-9]|\\d[.:])${pattern}(?![a-z0-9]|[.:]\\d)`).test(normalize(text));
}

/** How alike two texts are, from 0 to 1: Dice's coefficient of their pairs of neighbouring characters. */
export function similarity(a: string, b: string): number {
  const pairs = (text: string): string[] => {
    const characters = [...normalize(text).replace(/\s+/g, "")];
    return characters.slice(1).map((c, i) => characters[i] + c);
  };
  const [left, right] = [pairs(a), pairs(b)];
  if (left.length + right.length === 0) return normalize(a) === normalize(b) ? 1 : 0;
  const rest = new Map<string, number>();
  for (const pair of left) rest.set(pair, (rest.get(pair) ?? 0) + 1);
  let common = 0;
  for (const pair of right) {
    const n = rest.get(pair) ?? 0;
    if (n > 0) {
      common++;
      rest.set(pair, n - 1);
    }
  }
  return (2 * common) / (left.length + right.length);
}

/** An answer without facts is the expected one when it is so much like it. */
const ALIKE = 0.6;

/** Does an answer say what is expected: all of its key facts, or, where it has none, much the same text? */
export function isAnswered(answer: string, expected: string, question = ""): boolean {
  const facts = keyFacts(expected, question);
  return facts.length > 0 ? facts.every((fact) => says(answer, fact)) : similarity(answer, expected) >= ALIKE;
}

/** Numbers that an answer gives and neither the expected answer nor the question does. */
export function wrongNumbers(answer: string, expected: string, question = ""): string[] {
  return keyFacts(answer, question).filter((fact) => /\d/.test(fact) && !says(expected, fact));
}
