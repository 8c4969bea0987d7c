import { writeFileSync } from "node:fs";
import { dirname, relative, resolve, sep } from "node:path";
import { fileURLToPath } from "node:url";
import { Help, type Option } from "commander";
import { stringify } from "yaml";
import { CommandError } from "../../errors.ts";
import { fileOptions, keyOf, valueSchema } from "./schema.ts";

/** Where `--init` writes unless told otherwise. */
export const RUN_FILE = "train.yaml";

/** The JSON Schema of run files, which editors read. */
export const SCHEMA_FILE = fileURLToPath(new URL("../../../train.schema.json", import.meta.url));

const WIDTH = 100;

/** Writes a run file in which every option stands as a comment, with its default. @throws CommandError where one is already */
export function writeRunFile(command: { readonly options: readonly Option[] }, path: string): void {
  const schema = relative(dirname(resolve(path)), SCHEMA_FILE)
    .split(sep)
    .join("/");
  try {
    writeFileSync(path, runFileText(command, schema), { flag: "wx" });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
    throw new CommandError(`${path} is already there and stays as it is; give another name:  --init other.yaml`);
  }
}

/** A run file with every option of the command, its meaning and its default, as a comment. */
export function runFileText(command: { readonly options: readonly Option[] }, schema: string): string {
  const head = [
    `# yaml-language-server: $schema=${schema}`,
    "# Settings of a training run:  bun run train --config train.yaml",
    "# Take the # from a setting to make it; the command line wins. Paths are seen from the folder you are in.",
  ].join("\n");
  return `${[head, ...fileOptions(command).map(entry)].join("\n\n")}\n`;
}

function entry(option: Option): string {
  const choices = option.argChoices ? ` (${option.argChoices.join(", ")})` : "";
  const negated = option.negate ? "where false, " : "";
  const text = new Help().boxWrap(`${negated}${option.description}${choices}`, WIDTH).trimEnd();
  const comment = text.split("\n").map((line) => `# ${line}`);
  return [...comment, `# ${setting(option)}`].join("\n");
}

/** `rank: 8`; with what the help shows in place of a value where there is no default to write. */
function setting(option: Option): string {
  const value = defaultOf(option);
  if (value !== undefined) return stringify({ [keyOf(option)]: value }).trimEnd();
  return `${keyOf(option)}: ${/[<[].+[>\]]/.exec(option.flags)?.[0] ?? "true"}`;
}

/** The declared default, or the one that the description names, if it is a value. */
function defaultOf(option: Option): unknown {
  if (option.defaultValue !== undefined) return option.defaultValue;
  if (option.isBoolean() || option.negate) return option.negate;
  const told = /\(default: (\S+?)(?:, [^)]*)?\)$/.exec(option.description)?.[1];
  if (told === undefined) return undefined;
  return [Number(told), told].find((value) => !Number.isNaN(value) && valueSchema(option).safeParse(value).success);
}
