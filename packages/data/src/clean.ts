/**
 * Python's white space (`\s` of `re`, and what `str.strip()` strips). JavaScript's `\s` differs: it lacks the separators
 * U+001C to U+001F and U+0085, and has U+FEFF, which Python leaves alone.
 */
// biome-ignore lint/suspicious/noControlCharactersInRegex: Python counts these control characters as white space
const WHITE_SPACE = /(?:[^\S\ufeff]|[\x1c-\x1f\x85])+/g;

/**
 * The cleaning rule for answers: runs of white space become one space, the ends are trimmed, then every `<.*?>` is
 * removed; anything that is not a string becomes "". The same, character for character, as Python's
 * `re.sub(r"<.*?>", "", re.sub(r"\s+", " ", text).strip())`.
 *
 * The order matters: spaces around a removed tag stay, so `"a <br> b"` becomes `"a  b"`.
 */
export function cleanText(value: unknown): string {
  if (typeof value !== "string") return "";
  return removeTags(value.replace(WHITE_SPACE, " ").replace(/^ | $/g, ""));
}

/** `text.replace(/<.*?>/g, "")` in linear time: the pattern itself is quadratic on a long run of `<`. */
function removeTags(text: string): string {
  let kept = "";
  let from = 0;
  for (;;) {
    const open = text.indexOf("<", from);
    const close = open < 0 ? -1 : text.indexOf(">", open + 1);
    if (close < 0) return kept + text.slice(from);
    kept += text.slice(from, open);
    from = close + 1;
  }
}
