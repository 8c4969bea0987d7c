import type { Command, OptionValues } from "@commander-js/extra-typings";
import type { LoraConfigInput } from "@tslm/lora";
import { z } from "zod";
import { checked, inFile, namedByFlag, notEmpty, option } from "../options.ts";

/** What names of layers have none of, and expressions need. */
const SIGN = /[\\*+?()[\]{}|^$]/;

function isExpression(text: string): boolean {
  try {
    new RegExp(text);
    return SIGN.test(text);
  } catch {
    return false;
  }
}

/** Names of layers with commas between, or one regular expression on the whole name. */
const layerNames = notEmpty.transform((text, context): string | string[] => {
  const names = text.split(",").map((name) => name.trim());
  if (names.every((name) => /^[\w.]+$/.test(name))) return names;
  if (isExpression(text)) return text;
  const message =
    "names of layers with commas between, such as q_proj,v_proj, or a regular expression on the whole name";
  context.addIssue({ code: "custom", message });
  return z.NEVER;
});
inFile(layerNames, z.union([z.string(), z.array(z.string())]));

/** `0-11,23`: numbers of layers, and ranges of them. */
export const layerNumbers = z.string().transform((text, context): number[] => {
  const parts = text.split(",").map((part) => /^(\d{1,4})(?:-(\d{1,4}))?$/.exec(part.trim()));
  const ranges = parts.map((match) => match && [Number(match[1]), Number(match[2] ?? match[1])]);
  if (ranges.every((range) => range && range[0] <= range[1])) {
    const all = ranges.flatMap((range) => {
      const [first, last] = range!;
      return Array.from({ length: last - first + 1 }, (_, i) => first + i);
    });
    return [...new Set(all)].sort((a, b) => a - b);
  }
  const message = "numbers of layers from 0 with commas between, or ranges of them, such as 0-11,23";
  context.addIssue({ code: "custom", message });
  return z.NEVER;
});
const layerNumber = z.union([z.string(), z.int()]);
inFile(layerNumbers, z.union([layerNumber, z.array(layerNumber)]));

const start = z
  .string()
  .regex(
    /^(true|false|gaussian|olora|pissa(_niter_\d+)?)$/,
    "one of true, false, gaussian, pissa, pissa_niter_N, olora",
  );
inFile(start, z.union([z.string(), z.boolean()]));

/** Which layers carry the adapter, and of which kind it is; the names are PEFT's where the command had none. */
export function variantOptions<Args extends unknown[], Opts extends OptionValues, Globals extends OptionValues>(
  command: Command<Args, Opts, Globals>,
) {
  return command
    .addOption(
      option(
        "--targets <names>",
        "layers to adapt: names, a regular expression on the whole name, or all for every linear one (default: q_proj,v_proj)",
        layerNames,
      ),
    )
    .addOption(option("--layers <numbers>", "only in these blocks of the model, from 0, such as 0-11,23", layerNumbers))
    .addOption(option("--exclude <names>", "layers not to adapt: names, or a regular expression", layerNames))
    .option("--use-rslora", "scale the adapter's change by alpha/√rank: for high ranks")
    .option("--use-dora", "train length and direction of the weights' rows apart (DoRA)")
    .option(
      "--init-lora-weights <how>",
      "how the adapter begins: true: as no change; gaussian; pissa or olora: as the main part of the weights (default: true)",
      checked(start),
    );
}

/** The options of {@link variantOptions} that an adapter to start from decides already. */
export const VARIANT_KEYS = ["targets", "layers", "exclude", "useRslora", "useDora", "initLoraWeights"] as const;

/** The values of the options. */
export interface VariantValues {
  readonly targets?: string | string[];
  readonly layers?: number[];
  readonly exclude?: string | string[];
  readonly useRslora?: true;
  readonly useDora?: true;
  readonly initLoraWeights?: string;
}

/** Those of the options that were given, but for the targets, for `training.json`. */
export function variantRecord(options: VariantValues): Record<string, unknown> {
  const { targets: _, ...given } = Object.fromEntries(
    VARIANT_KEYS.filter((key) => options[key] !== undefined).map((key) => [key, options[key]]),
  );
  return namedByFlag(given);
}

/** `--init-lora-weights` as the configuration has it. */
export function startOf({ initLoraWeights: how }: VariantValues): LoraConfigInput["init_lora_weights"] {
  return how === undefined || how === "true" ? true : how === "false" ? false : how;
}
