// The part of bun:test that the suite of devices uses, for pages.
function same(a: unknown, b: unknown): boolean {
  if (typeof a !== "object" || typeof b !== "object" || a === null || b === null) return Object.is(a, b);
  const [left, right] = [a, b].map((x) => Object.entries(x));
  return left.length === right.length && left.every(([key, value]) => same(value, (b as Record<string, unknown>)[key]));
}

function check(is: boolean, what: string): void {
  if (!is) throw new Error(what);
}

export function expect(got: unknown) {
  const text = (x: unknown): string => String(JSON.stringify(x)).slice(0, 300);
  return {
    toBe: (want: unknown) => check(Object.is(got, want), `${text(got)}, not ${text(want)}`),
    toEqual: (want: unknown) => check(same(got, want), `${text(got)}, not ${text(want)}`),
    toBeLessThan: (most: number) => check((got as number) < most, `${got} is not below ${most}`),
    toContain: (part: string) => check((got as string).includes(part), `${text(got)} has no ${part}`),
    toThrow(what?: RegExp | (new (...args: never[]) => Error) | string) {
      let error: unknown;
      try {
        (got as () => void)();
      } catch (thrown) {
        error = thrown;
      }
      check(error instanceof Error, "nothing was thrown");
      if (what instanceof RegExp) check(what.test((error as Error).message), String(error));
      else if (typeof what === "string") check((error as Error).message.includes(what), String(error));
      else if (what) check(error instanceof what, String(error));
    },
  };
}

const none = (): void => {};
export const [describe, test, beforeAll, afterAll] = [none, none, none, none];
