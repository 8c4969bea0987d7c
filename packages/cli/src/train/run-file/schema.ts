import type { Option } from "commander";
import { z } from "zod";
import { argumentCheckOf, fromFile, writtenInFile } from "../../options.ts";
import { OF_THE_CALL } from "../own-options.ts";

/** The options of a command that a run file may set: all but those that belong to a call. */
export function fileOptions({ options }: { readonly options: readonly Option[] }): Option[] {
  return options.filter((option) => !(OF_THE_CALL as readonly string[]).includes(option.attributeName()));
}

/** An option's name in a run file: that of the command line. `--no-shuffle` is `shuffle: false`. */
export function keyOf(option: Option): string {
  return option.long!.replace(/^--(no-)?/, "");
}

/**
 * The schema of a run file, made of the options' own declarations: what it takes is what the command line takes, what it
 * gives are the options' values by their keys.
 */
export function runFileSchema(command: { readonly options: readonly Option[] }) {
  const shape = Object.fromEntries(
    fileOptions(command).map((option) => {
      const { description, defaultValue } = option;
      const meta = { description, ...(defaultValue !== undefined && { default: defaultValue }) };
      return [keyOf(option), valueSchema(option).optional().meta(meta)];
    }),
  );
  return z.strictObject(shape).meta({ title: "A run file of `bun run train`" });
}

/** The schema as JSON Schema, for editors. */
export function runFileJsonSchema(command: { readonly options: readonly Option[] }) {
  return z.toJSONSchema(runFileSchema(command), { io: "input" });
}

/** What a run file may say for an option. Its errors go on from "must be". */
export function valueSchema(option: Option): z.ZodType {
  const flag = z.boolean("true or false");
  if (option.isBoolean() || option.negate) return flag;
  const argument = argumentSchema(option);
  return option.optional ? z.union([argument, flag]) : argument;
}

function argumentSchema(option: Option): z.ZodType {
  if (option.argChoices) return z.enum(option.argChoices, `one of ${option.argChoices.join(", ")}`);
  const { schema, isList } = argumentCheckOf(option)!;
  const value = writtenInFile(schema).transform((written, context) => {
    const result = schema.safeParse(Array.isArray(written) ? written.join(",") : String(written));
    if (result.success) return result.data;
    context.addIssue({ code: "custom", message: result.error.issues[0].message });
    return z.NEVER;
  });
  if (!isList) return value;
  return z.union([value, z.array(value)]).transform((given) => fromFile(Array.isArray(given) ? given : [given]));
}
