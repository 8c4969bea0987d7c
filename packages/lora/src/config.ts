import { z } from "zod";
import { ConfigError } from "./errors.ts";
import { fromBaseOf } from "./variants/from-base.ts";

/** A check whose sentence names field and value: `r must be a whole number of at least 1, not 0`. */
function must(what: string): { error: (issue: { path?: PropertyKey[]; input?: unknown }) => string } {
  return {
    error: ({ path, input }) =>
      `${path?.map(String).join(".") || "the value"} must be ${what}, not ${JSON.stringify(input) ?? "nothing"}`,
  };
}

const rank = z.int(must("a whole number of at least 1")).min(1, must("a whole number of at least 1"));
const alpha = z.number(must("a number above 0")).positive(must("a number above 0"));
const names = "a list of layer names or a regular expression";
const modules = z.union([z.string().min(1), z.array(z.string().min(1))], must(names));
const layerNumber = z.int().min(0);
const initError = {
  error: ({ input }: { input?: unknown }) =>
    `init_lora_weights ${JSON.stringify(input)} is not supported, only true, false, gaussian, pissa, pissa_niter_N and olora; convert the adapter with PEFT's path_initial_model_for_weight_conversion`,
};
const init = z.union(
  [z.boolean(), z.string(initError).regex(/^(gaussian|olora|pissa(_niter_\d+)?)$/, initError)],
  initError,
);

/**
 * The fields of PEFT's `LoraConfig` that this package acts on, with PEFT's names and defaults. A value that it cannot
 * honour is refused, never ignored.
 */
export const loraConfigSchema = z.object({
  peft_type: z
    .literal("LORA", { error: ({ input }) => `peft_type ${JSON.stringify(input)} is not supported, only LORA is` })
    .default("LORA"),
  /** Rank. */
  r: rank.default(8),
  /** The change is scaled by α/r. */
  lora_alpha: alpha.default(8),
  lora_dropout: z
    .number(must("a number from 0 up to, not including, 1"))
    .min(0, must("a number from 0 up to, not including, 1"))
    .lt(1, must("a number from 0 up to, not including, 1"))
    .default(0),
  /** A list of names or endings, a regular expression on the whole name, or `all-linear`. */
  target_modules: modules.refine((t) => t.length > 0, must(`${names}, and not empty`)),
  exclude_modules: modules.nullable().default(null),
  layers_to_transform: z
    .union([layerNumber, z.array(layerNumber)], must("a layer's number or a list of them"))
    .nullable()
    .default(null),
  layers_pattern: z
    .union([z.string(), z.array(z.string())], must("a name such as `layers`, or a list of them"))
    .nullable()
    .default(null),
  /** Ranks of single layers, by expressions on the end of their names. */
  rank_pattern: z.record(z.string(), rank, must("an object of ranks by layer name")).default({}),
  alpha_pattern: z.record(z.string(), alpha, must("an object of numbers by layer name")).default({}),
  /** Scale by α/√r instead (Kalajdzievski, 2023). */
  use_rslora: z.boolean(must("true or false")).default(false),
  /** Length and direction of every row of the weight apart (Liu et al., 2024). */
  use_dora: z.boolean(must("true or false")).default(false),
  init_lora_weights: init.default(true),
  fan_in_fan_out: z
    .literal(false, { error: () => "fan_in_fan_out is not supported: weights are [out, in] here" })
    .default(false),
  bias: z
    .literal("none", {
      error: ({ input }) =>
        `bias ${JSON.stringify(input)} is not supported: an adapter holds no biases here, use "none"`,
    })
    .default("none"),
  /** Name or folder of the model that the adapter belongs to. */
  base_model_name_or_path: z.string().nullable().default(null),
  task_type: z.string().nullable().default("CAUSAL_LM"),
  revision: z.string().nullable().default(null),
});

/** A checked configuration; field names and meanings are PEFT's. */
export type LoraConfig = z.output<typeof loraConfigSchema>;
/** What one writes: only `target_modules` has no default. */
export type LoraConfigInput = z.input<typeof loraConfigSchema>;

/** Release of PEFT whose fields are written. */
const PEFT_VERSION = "0.21.2";

/** The fields that PEFT writes and this package does not act on, with the values that mean nothing. */
const NEUTRAL = {
  alora_invocation_tokens: null,
  arrow_config: null,
  auto_mapping: null,
  corda_config: null,
  ensure_weight_tying: false,
  eva_config: null,
  inference_mode: true,
  kasa_config: null,
  layer_replication: null,
  loftq_config: {},
  lora_bias: false,
  lora_ga_config: null,
  megatron_config: null,
  megatron_core: "megatron.core",
  modules_to_save: null,
  monteclora_config: null,
  peft_version: PEFT_VERSION,
  qalora_group_size: 16,
  target_parameters: null,
  trainable_token_indices: null,
  use_bdlora: null,
  use_qalora: false,
  velora_config: null,
} as const;

/** Fields that say nothing about what an adapter computes, whatever their value. */
const HARMLESS: ReadonlySet<string> = new Set([
  "auto_mapping",
  "corda_config",
  "ensure_weight_tying",
  "eva_config",
  "inference_mode",
  "loftq_config",
  "lora_ga_config",
  "megatron_config",
  "megatron_core",
  "peft_version",
  "qalora_group_size",
  "runtime_config",
]);

/** Does a field ask for something: `true`, or a list or object that is not empty? */
function asks(value: unknown): boolean {
  if (value === null || typeof value !== "object") return value === true;
  return Object.keys(value).length > 0;
}

/**
 * Checks a configuration, one's own or that of an `adapter_config.json`.
 * @throws ConfigError naming the field, also for a feature of PEFT that is not supported
 */
export function parseLoraConfig(input: unknown): LoraConfig {
  const result = loraConfigSchema.safeParse(input);
  if (!result.success) {
    const [{ path, message }] = result.error.issues;
    const field = path.map(String).join(".");
    throw new ConfigError(field, message, { cause: result.error });
  }
  for (const [field, value] of Object.entries(input as object)) {
    if (field in loraConfigSchema.shape || HARMLESS.has(field) || !asks(value)) continue;
    throw new ConfigError(field, `${field} is not supported; it is ${JSON.stringify(value)} in this configuration`);
  }
  const config = result.data;
  if (typeof config.target_modules === "string" && (config.layers_to_transform ?? config.layers_pattern) !== null) {
    throw new ConfigError(
      "layers_to_transform",
      "layers_to_transform and layers_pattern need target_modules as a list; a regular expression can name the layers itself",
    );
  }
  if (config.layers_pattern !== null && config.layers_pattern.length > 0 && config.layers_to_transform === null) {
    throw new ConfigError("layers_pattern", "layers_pattern needs layers_to_transform");
  }
  if (config.use_dora && fromBaseOf(config)) {
    throw new ConfigError(
      "use_dora",
      `use_dora with init_lora_weights ${JSON.stringify(config.init_lora_weights)} is not supported; take one of the two`,
    );
  }
  return config;
}

/** The text of an `adapter_config.json` as PEFT writes it: every field, sorted, two spaces, no line break at the end. */
export function formatLoraConfig(config: LoraConfig): string {
  const fields = Object.entries({ ...NEUTRAL, ...config }).sort(([a], [b]) => (a < b ? -1 : 1));
  // Python writes a whole float as 0.0; PEFT's two float fields are told apart by their names.
  const lines = fields.map(([name, value]) => {
    const text = JSON.stringify(value, null, 2).replaceAll("\n", "\n  ");
    return `  ${JSON.stringify(name)}: ${name === "lora_dropout" && Number.isInteger(value) ? `${text}.0` : text}`;
  });
  return `{\n${lines.join(",\n")}\n}`;
}

/**
 * What the files say of an adapter that begins as a part of the base weight: they hold it as a plain one of twice the
 * rank, with the same scaling, as PEFT converts it.
 */
export function savedConfig(config: LoraConfig): LoraConfig {
  if (!fromBaseOf(config)) return config;
  const factor = config.use_rslora ? Math.SQRT2 : 2;
  const each = (values: Record<string, number>, by: number) =>
    Object.fromEntries(Object.entries(values).map(([name, value]) => [name, by * value]));
  return {
    ...config,
    init_lora_weights: true,
    r: 2 * config.r,
    lora_alpha: factor * config.lora_alpha,
    rank_pattern: each(config.rank_pattern, 2),
    alpha_pattern: each(config.alpha_pattern, factor),
  };
}
