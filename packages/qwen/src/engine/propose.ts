/** The longest end of the text that is looked for, and the shortest. */
const LONGEST = 3;
const SHORTEST = 2;
/** How far back it is looked for. */
const REACH = 4096;

/**
 * What may come next, looked up in the text so far: the tokens that followed where its last ones stood before, the latest
 * such place first ("prompt lookup decoding", Saxena 2023; Yang et al., 2023). Answers that quote their prompt, code for
 * one, repeat it in runs.
 *
 * @returns at most `most` tokens; none where the text's end is new
 */
export function proposeTokens(tokens: readonly number[], most: number): readonly number[] {
  const end = tokens.length;
  for (let length = LONGEST; length >= SHORTEST; length--) {
    const least = Math.max(0, end - REACH);
    for (let at = end - length - 1; at >= least; at--) {
      let same = 0;
      while (same < length && tokens[at + same] === tokens[end - length + same]) same++;
      if (same === length) return tokens.slice(at + length, Math.min(at + length + most, end));
    }
  }
  return [];
}
