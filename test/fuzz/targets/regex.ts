import { meets, smallTokenizer } from "../../../packages/qwen/src/constraint/testing.ts";
import { ConstraintError, regexConstraint } from "../../../packages/qwen/src/index.ts";
import { allowing, check, type FuzzTarget, partsOf } from "../target.ts";

const tokenizer = smallTokenizer();
/** Beyond that JavaScript's own, which backtracks, may take years. */
const SHORT = 24;

/** Regular expressions for answers: those that are taken mean what they mean in JavaScript. */
export const target: FuzzTarget = {
  words: ["(?:", "(?<a>", "\\d", "\\p{L}", "\\u{1F600}", "[^", "{1,3}", "{2,}", "*?", "\\x41", "|", "^", "$", "(?i:"],
  maxLength: 256,
  seeds: () =>
    [
      ["(?:ab|c)+\\d{2,3}", "abcab123"],
      ["[一-龥]{2}\\p{L}?", "中文é"],
      ["^a$|^b$", "b"],
      ["(?<year>\\d{4})-\\x41\\u{1F600}", "2026-A😀"],
      ["[^\\w\\s]*.{0,5}", "€ x"],
    ].map((parts) => parts.join("\0")),
  fuzz(data) {
    const [pattern, text] = partsOf(data, 2);
    const make = allowing([ConstraintError], () => regexConstraint(pattern, tokenizer));
    if (!make || !text.isWellFormed() || !pattern.isWellFormed()) return;
    const ours = meets(make(), text, tokenizer.end);
    if (text.length > SHORT || /[*+?}].*[*+?}].*[*+?}]/s.test(pattern)) return;
    const theirs = new RegExp(`^(?:${strict(pattern)})$`, "u").test(text);
    check(
      ours === theirs,
      () => `${JSON.stringify(pattern)} on ${JSON.stringify(text)}: ${ours}, JavaScript ${theirs}`,
    );
  },
};

/**
 * Any sign may be escaped here, as without JavaScript's `u` flag; with it only those that mean something. Names of groups say
 * nothing, and older engines refuse one that stands twice.
 */
function strict(pattern: string): string {
  return pattern
    .replaceAll(/(?<=^|[^\\])\(\?<[^=!>][^>]*>/g, "(")
    .replaceAll(/\\(.)/gsu, (whole, char: string) =>
      /[\w^$\\.*+?()[\]{}|/]/.test(char) && char !== "_" ? whole : `\\u{${char.codePointAt(0)!.toString(16)}}`,
    );
}
