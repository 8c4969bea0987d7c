import { readFileSync } from "node:fs";
import type { Command } from "@commander-js/extra-typings";
import type { Option } from "commander";
import { isMap, isNode, LineCounter, type Node, parseDocument } from "yaml";
import type { z } from "zod";
import { CommandError, explain, UsageError } from "../../errors.ts";
import { meantKey } from "./names.ts";
import { fileOptions, keyOf, runFileSchema, valueSchema } from "./schema.ts";

/** Errors of one file that are told; more help nobody. */
const MOST_ERRORS = 5;

/**
 * Sets what a run file says, for options that the command line has not set. Relative paths in it are taken from the
 * working folder, as on the command line.
 *
 * @throws CommandError when the file cannot be read; UsageError naming file, line, column and what to write
 */
// biome-ignore lint/suspicious/noExplicitAny: whatever options it has.
export function applyRunFile(command: Command<any, any, any>, path: string): void {
  const values = parseRunFile(readText(path), path, command);
  for (const option of fileOptions(command)) {
    const value = values[keyOf(option)];
    const name = option.attributeName();
    // An option that is off is not given; --no-shuffle is the one that is on by itself.
    const isGiven = value !== undefined && (value !== false || option.negate);
    if (isGiven && command.getOptionValueSource(name) !== "cli")
      command.setOptionValueWithSource(name, value, "config");
  }
}

function readText(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    throw new CommandError(`--config: ${explain(error)}`);
  }
}

/** A mistake, and where it begins in the text. */
interface Problem {
  readonly offset: number;
  readonly what: string;
}

/** The options' values in the text of a run file, by their keys. @throws UsageError */
export function parseRunFile(text: string, path: string, command: { readonly options: readonly Option[] }) {
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false });
  const refuse = (problems: readonly Problem[]): never => {
    const told = problems
      .toSorted((a, b) => a.offset - b.offset)
      .map(({ offset, what }) => {
        const { line, col } = lines.linePos(offset);
        return `${path}, line ${line}, column ${col}: ${what}`;
      });
    const rest = told.length - MOST_ERRORS;
    throw new UsageError([...told.slice(0, MOST_ERRORS), ...(rest > 0 ? [`and ${rest} more`] : [])].join("; "));
  };
  if (document.errors.length > 0) {
    refuse(document.errors.map(({ pos, message }) => ({ offset: pos[0], what: `this is no YAML: ${message}` })));
  }
  const { contents } = document;
  if (contents === null) return {};
  if (!isMap(contents)) {
    return refuse([{ offset: startOf(contents), what: "a run file holds a setting a line, such as  rank: 8" }]);
  }
  const options = fileOptions(command);
  const result = runFileSchema(command).safeParse(document.toJS());
  if (result.success) return result.data as Record<string, unknown>;
  const keyNode = (key: string) => contents.items.find((pair) => String(pair.key) === key)?.key;
  const problems = result.error.issues.flatMap((issue): Problem[] => {
    if (issue.code === "unrecognized_keys") {
      return issue.keys.map((key) => ({ offset: startOf(keyNode(key)), what: unknownKey(key, options.map(keyOf)) }));
    }
    const place = placeOf(issue, []);
    const node = document.getIn(place.path, true);
    const option = options.find((one) => keyOf(one) === place.path[0])!;
    const where = isNode(node) && node.range ? node : keyNode(String(place.path[0]));
    const value = JSON.stringify(valueAt(document.toJS(), place.path));
    return [
      { offset: startOf(where), what: `${keyOf(option)} must be ${place.message}, not ${value}${example(option)}` },
    ];
  });
  return refuse(problems);
}

function valueAt(value: unknown, path: readonly PropertyKey[]): unknown {
  return path.reduce<unknown>((inside, key) => (inside as Record<PropertyKey, unknown>)[key], value);
}

function startOf(node: unknown): number {
  return (node as Node | undefined)?.range?.[0] ?? 0;
}

/** The innermost problem: of a value that may be one or several, the one that fits what was written. */
function placeOf(issue: z.core.$ZodIssue, above: readonly PropertyKey[]): { path: PropertyKey[]; message: string } {
  const path = [...above, ...issue.path];
  if (issue.code !== "invalid_union") return { path, message: issue.message };
  const inner = issue.errors.flatMap((problems) => problems.slice(0, 1).map((first) => placeOf(first, path)));
  return inner.reduce((deepest, one) => (one.path.length > deepest.path.length ? one : deepest));
}

function unknownKey(key: string, keys: readonly string[]): string {
  const meant = meantKey(key, keys);
  if (meant === "shuffle" && key.startsWith("no")) return `there is no setting ${key}; write  shuffle: false`;
  return `there is no setting ${key}${meant === undefined ? "; bun run train --init writes a file with all of them" : `; write  ${meant}:`}`;
}

/** The default as an example, where it is one. */
function example(option: Option): string {
  const value = option.defaultValue;
  const isPlain =
    (typeof value === "number" || typeof value === "string") && valueSchema(option).safeParse(value).success;
  return isPlain ? `; such as  ${keyOf(option)}: ${value}` : "";
}
