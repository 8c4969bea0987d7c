/** Length of the longest end of a text with which a mark begins. */
export function longestOverlap(text: string, mark: string): number {
  for (let n = Math.min(mark.length - 1, text.length); n > 0; n--) if (mark.startsWith(text.slice(-n))) return n;
  return 0;
}
