import { Command, InvalidArgumentError, Option } from "@commander-js/extra-typings";
import { QUANTIZATIONS, type Quantization } from "@tslm/qwen";
import { z } from "zod";
import type { Context } from "./run.ts";

/** The model that commands use when none is named. */
export const DEFAULT_MODEL = "Qwen/Qwen2.5-0.5B-Instruct";

export const DEVICES = ["auto", "cpu", "gpu", "reference"] as const;
export type DeviceName = (typeof DEVICES)[number];

const NUMBER = /^[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?$/i;

/** What checks an option's argument; `isList`: the option may be given several times. */
export interface ArgumentCheck {
  readonly schema: z.ZodType<unknown, string>;
  readonly isList: boolean;
}
const checks = new WeakMap<object, ArgumentCheck>();

/** What checks the argument of an option; undefined for one that takes none, or a choice. */
export function argumentCheckOf({ parseArg }: { parseArg?: object }): ArgumentCheck | undefined {
  return parseArg && checks.get(parseArg);
}

const written = new WeakMap<z.ZodType, z.ZodType>();

/** Says how a run file may write what a schema takes as a text. */
export function inFile<Schema extends z.ZodType>(schema: Schema, values: z.ZodType): Schema {
  written.set(schema, values);
  return schema;
}

/** How a run file writes a schema's values; a text unless {@link inFile} said otherwise. */
export function writtenInFile(schema: z.ZodType): z.ZodType {
  return written.get(schema) ?? z.string("a text: put it in quotes");
}

/** Makes a commander argument parser of a zod schema; commander names the option and the value in the error. */
export function checked<T>(schema: z.ZodType<T, string>): (value: string) => T {
  const parse = (value: string): T => {
    const result = schema.safeParse(value);
    if (!result.success) throw new InvalidArgumentError(`It must be ${result.error.issues[0].message}.`);
    return result.data;
  };
  checks.set(parse, { schema, isList: false });
  return parse;
}

/** A whole number from `least` to `most`. */
export function integer(least: number, most = Number.MAX_SAFE_INTEGER) {
  const want =
    most === Number.MAX_SAFE_INTEGER
      ? `a whole number of at least ${least}`
      : `a whole number from ${least} to ${most}`;
  const schema = z
    .string()
    .regex(/^[+-]?\d+$/, want)
    .transform(Number)
    .refine((x) => Number.isSafeInteger(x) && x >= least && x <= most, want);
  return inFile(schema, z.int(want).min(least, want).max(most, want));
}

/** A finite number that satisfies `test`; `want` says which, to go on from "It must be". */
export function real(test: (x: number) => boolean, want: string) {
  const schema = z
    .string()
    .regex(NUMBER, want)
    .transform(Number)
    .refine((x) => Number.isFinite(x) && test(x), want);
  return inFile(schema, z.number(want));
}

export const positive = real((x) => x > 0, "a number above 0");
export const notNegative = real((x) => x >= 0, "a number of at least 0");
export const share = real((x) => x >= 0 && x <= 1, "a number from 0 to 1");
export const fraction = real((x) => x >= 0 && x < 1, "a number from 0 to below 1");
export const notEmpty = z.string().refine((text) => text.trim() !== "", "a text that is not empty");

/** `TEXT=N`: the number stands after the last equals sign. */
export const repetition = z.string().transform((value, context) => {
  const at = value.lastIndexOf("=");
  const count = integer(1, 1000).safeParse(value.slice(at + 1));
  if (at > 0 && count.success) return { text: value.slice(0, at), times: count.data };
  context.addIssue({ code: "custom", message: "TEXT=N with a whole number N from 1 to 1000, such as '15GB=4'" });
  return z.NEVER;
});

/** `--grad-accum` for gradAccum. */
export function flagOf(option: string): string {
  return `--${option.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
}

/** Values by the names of their options on the command line: `grad-accum`. */
export function namedByFlag(values: object): Record<string, unknown> {
  return Object.fromEntries(Object.entries(values).map(([name, value]) => [flagOf(name).slice(2), value]));
}

/** Lists that came from a run file: one on the command line takes their place. */
const listsOfFiles = new WeakSet<object>();

/** Marks a list as a run file's. */
export function fromFile<T>(value: T): T {
  if (Array.isArray(value)) listsOfFiles.add(value);
  return value;
}

/** For options that may be given several times. */
export function gathered<T>(parse: (value: string) => T): (value: string, before: T[] | undefined) => T[] {
  const gather = (value: string, before: T[] | undefined): T[] =>
    before === undefined || listsOfFiles.has(before) ? [parse(value)] : [...before, parse(value)];
  checks.set(gather, { schema: checks.get(parse)!.schema, isList: true });
  return gather;
}

/** An option whose value a zod schema checks. */
export function option<const Flags extends string, T>(flags: Flags, description: string, schema: z.ZodType<T, string>) {
  return new Option(flags, description).argParser(checked(schema));
}

/**
 * A command with the options that all share, which speaks through the context: help to stdout, usage errors to stderr.
 *
 * @param examples lines for the end of the help, each a call and what it does
 */
export function baseCommand(
  context: Context,
  name: string,
  description: string,
  examples: readonly [string, string][],
) {
  // A Chinese character takes two columns.
  const width = Math.max(...examples.map(([call]) => Bun.stringWidth(call)));
  const fill = (call: string) => " ".repeat(width - Bun.stringWidth(call));
  const shown = examples.map(([call, meaning]) => `  ${call}${fill(call)}  ${meaning}`).join("\n");
  return new Command(`bun run ${name}`)
    .description(description)
    .option("--json", "print the result as JSON on stdout, and everything for people on stderr")
    .option("--debug", "with an error, print where in the program it came from")
    .addHelpText("after", `\nExamples:\n${shown}`)
    .configureOutput({
      writeOut: (text) => context.terminal.out(text),
      writeErr: (text) => context.terminal.err(text),
    })
    .configureHelp({ helpWidth: context.terminal.columns ?? 100 })
    .helpOption("-h, --help", "print this help")
    .allowExcessArguments(false)
    .showHelpAfterError("(--help lists the options)")
    .exitOverride();
}

/**
 * `baseCommand` with the options of a command that loads a model as it is.
 *
 * @param modelDefault what the help says of the model that is taken when none is named
 */
export function deviceCommand(
  context: Context,
  name: string,
  description: string,
  examples: readonly [string, string][],
  modelDefault: string = DEFAULT_MODEL,
) {
  return baseCommand(context, name, description, examples)
    .addOption(
      option(
        "--model <name|dir>",
        `a model's name, its folder, a GGUF file, or demo, the bundled small one (default: ${modelDefault})`,
        notEmpty,
      ),
    )
    .addOption(
      new Option("--device <name>", "what computes: auto takes the fastest; reference is plain and slow")
        .choices(DEVICES)
        .default("auto" as const),
    )
    .addOption(option("--threads <n>", "threads of the device (default: all cores)", integer(1, 1024)))
    .addOption(
      new Option(
        "--precision <type>",
        "on processors with AMX: bf16 rounds the factors of matrix products, which is faster",
      )
        .choices(["f32", "bf16"])
        .default("f32" as const),
    )
    .addOption(
      option(
        "--seed <n>",
        "starts everything that is drawn at random: the same seed gives the same result",
        integer(0),
      ).default(0),
    );
}

/** `deviceCommand` for a command that may round the model's weights first. */
export function modelCommand(...given: Parameters<typeof deviceCommand>) {
  return deviceCommand(...given).addOption(
    new Option(
      "--quantize <bits>",
      "round the weights to 8 or to about 5 bits: less memory and faster answers, a little less sure of its words",
    ).choices(QUANTIZATIONS),
  );
}

/** The values of `modelCommand`'s options. */
export interface ModelOptions {
  readonly model?: string;
  readonly device: DeviceName;
  readonly threads?: number;
  readonly precision?: "f32" | "bf16";
  readonly quantize?: Quantization;
  readonly seed: number;
}

/** The default of `--model` where an adapter may be given. */
export const ADAPTER_MODEL = `the adapter's, without one ${DEFAULT_MODEL}`;
