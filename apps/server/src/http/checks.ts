import { z } from "@hono/zod-openapi";

type Issue = { readonly input?: unknown };

function show(value: unknown): string {
  if (value === undefined) return "missing";
  if (value === null) return "null";
  if (Array.isArray(value)) return "a list";
  if (typeof value === "object") return "an object";
  return typeof value === "string" ? "a text" : String(value);
}

/** An error that says what was wanted and what kind of thing came, never what was in it. */
export const is = (want: string) => ({ error: ({ input }: Issue) => `must be ${want}, but is ${show(input)}` });

function number(least: number, most: number, want: string) {
  return z.number(is(want)).min(least, is(want)).max(most, is(want));
}

export function integer(least: number, most: number) {
  const want = `a whole number from ${least} to ${most}`;
  return z.int(is(want)).min(least, is(want)).max(most, is(want));
}

/** A number from `least` to `most`, both included. */
export const between = (least: number, most: number) => number(least, most, `a number from ${least} to ${most}`);

/** A probability that keeps something: above 0, at most 1. */
export const probability = () => {
  const want = "a number above 0 and at most 1";
  return z.number(is(want)).gt(0, is(want)).max(1, is(want));
};

export const boolean = () => z.boolean(is("true or false"));

/** Text in whole characters, of bounded length. */
export function text(most: number) {
  return z
    .string(is("a text"))
    .max(most, { error: `must not be longer than ${most} characters` })
    .refine((value) => value.isWellFormed(), { error: "holds half of a surrogate pair; send whole characters" });
}

export const notEmptyText = (most: number) => text(most).min(1, { error: "must not be empty" });

/** One of some names; other than texts in general, what was given for one may be told back. */
export function oneOf<const Names extends readonly [string, ...string[]]>(names: Names) {
  const want = names.map((name) => JSON.stringify(name));
  const list = want.length > 1 ? `${want.slice(0, -1).join(", ")} or ${want.at(-1)}` : want[0];
  return z.enum(names, {
    error: ({ input }: Issue) =>
      `must be ${list}, but is ${typeof input === "string" ? JSON.stringify(input.slice(0, 30)) : show(input)}`,
  });
}

export function listOf<T extends z.ZodType>(item: T, most: number, want: string, what = "entries") {
  return z.array(item, is(want)).max(most, { error: `must not have more than ${most} ${what}` });
}

/** An object that has no other fields. */
export function strict<Shape extends z.core.$ZodLooseShape>(shape: Shape, want: string) {
  return z.strictObject(shape, { error: unknownFieldsOr(want) });
}

export function unknownFieldsOr(want: string) {
  return (issue: Issue & { code?: string; keys?: readonly string[] }) =>
    issue.code === "unrecognized_keys"
      ? `has a field that is not known: ${JSON.stringify(issue.keys?.[0]).slice(0, 100)}`
      : is(want).error(issue);
}
