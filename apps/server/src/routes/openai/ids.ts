/** An id as OpenAI's are: a prefix and letters and digits that nobody can guess. */
export function newId(prefix: string): string {
  return `${prefix}${crypto.randomUUID().replaceAll("-", "")}`;
}

/** Seconds since 1970. */
export const unixSeconds = (): number => Math.floor(Date.now() / 1000);
