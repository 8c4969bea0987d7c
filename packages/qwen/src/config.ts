import { z } from "zod";
import { checkShape } from "./check-shape.ts";
import { ModelFileError } from "./errors.ts";

/** Number type in which a checkpoint's weights are stored. */
export type WeightDtype = "float32" | "bfloat16" | "float16";

/**
 * What `config.json` of a Qwen2 or Qwen2.5 model says, checked. Names follow transformers' `Qwen2Config`.
 * The query, key and value projections have a bias and the output projection has none; that is fixed for this family.
 */
export interface ModelConfig {
  readonly modelType: "qwen2";
  readonly architectures: readonly string[];
  /** Width of the residual stream. */
  readonly hiddenSize: number;
  /** Width of the MLP. */
  readonly intermediateSize: number;
  readonly numHiddenLayers: number;
  /** Query heads. */
  readonly numAttentionHeads: number;
  /** Key/value heads; divides `numAttentionHeads`. */
  readonly numKeyValueHeads: number;
  /** Width of a head; even, because RoPE turns pairs. */
  readonly headDim: number;
  /** Rows of the embedding; at least the number of tokens of the tokenizer. */
  readonly vocabSize: number;
  /** Longest sequence the model was trained for, in tokens. */
  readonly maxPositionEmbeddings: number;
  readonly rmsNormEps: number;
  readonly ropeTheta: number;
  /** The output projection is the embedding itself. */
  readonly tieWordEmbeddings: boolean;
  /** What the checkpoint says its weights are stored in; the weight files decide. */
  readonly dtype: WeightDtype | undefined;
  readonly bosTokenId: number | undefined;
  readonly eosTokenIds: readonly number[];
  readonly padTokenId: number | undefined;
}

/** What `generation_config.json` says, with transformers' defaults for what it leaves out. */
export interface GenerationConfig {
  /** Any of these tokens ends a generation. */
  readonly eosTokenIds: readonly number[];
  readonly bosTokenId: number | undefined;
  readonly padTokenId: number | undefined;
  /** False is greedy decoding. */
  readonly doSample: boolean;
  readonly temperature: number;
  /** 0 keeps all tokens. */
  readonly topK: number;
  /** In (0, 1]; 1 keeps all tokens. */
  readonly topP: number;
  /** In [0, 1]; 0 keeps all tokens. */
  readonly minP: number;
  /** 1 changes nothing. */
  readonly repetitionPenalty: number;
}

// Four to ten times Qwen2.5-72B: generous, and no product of two of them leaves the exact integers.
const MAX_WIDTH = 1 << 20;
const MAX_VOCAB = 1 << 22;
const MAX_LAYERS = 1024;
const MAX_HEADS = 1024;
const MAX_POSITIONS = 1 << 26;

function show(value: unknown): string {
  if (value === undefined) return "nothing";
  const text = JSON.stringify(value) ?? String(value);
  return text.length > 60 ? `${text.slice(0, 57)}...` : text;
}

const integer = (least: number, most: number) => {
  const error = (issue: { input?: unknown }) =>
    `must be a whole number from ${least} to ${most}, but is ${show(issue.input)}`;
  return z.number({ error }).int({ error }).min(least, { error }).max(most, { error });
};

const real = (test: (x: number) => boolean, want: string) => {
  const error = (issue: { input?: unknown }) => `must be ${want}, but is ${show(issue.input)}`;
  return z.number({ error }).refine((x) => Number.isFinite(x) && test(x), { error });
};

const bool = z.boolean({ error: (issue) => `must be true or false, but is ${show(issue.input)}` });
const object = <T extends z.ZodRawShape>(shape: T) =>
  z.looseObject(shape, { error: (issue) => `must be a JSON object, but is ${show(issue.input)}` });

const tokenId = integer(0, MAX_VOCAB - 1);
const eosTokenId = z.union([tokenId, z.array(tokenId).min(1).max(64)], {
  error: (issue) => `must be a token id or a list of token ids, but is ${show(issue.input)}`,
});
const dtypes: Record<string, WeightDtype> = { float32: "float32", bfloat16: "bfloat16", float16: "float16" };
const dtype = z
  .string({ error: (issue) => `must be a name, but is ${show(issue.input)}` })
  .transform((name, context) => {
    const found = dtypes[name.replace(/^torch\./, "")];
    if (found) return found;
    context.addIssue({ code: "custom", message: `must be float32, bfloat16 or float16, but is ${show(name)}` });
    return z.NEVER;
  });

// Old files say rope_theta, torch_dtype and rope_scaling.type; transformers 5 writes rope_parameters and dtype.
const rope = object({
  rope_theta: real((x) => x > 0, "a number above 0").nullish(),
  rope_type: z.string().nullish(),
  type: z.string().nullish(),
  partial_rotary_factor: z.number().nullish(),
});

const configSchema = object({
  model_type: z.literal("qwen2", {
    error: (issue) =>
      `must be "qwen2" (Qwen2, Qwen2.5, Qwen2.5-Coder, Qwen2.5-Math), but is ${show(issue.input)}; choose a model of that family`,
  }),
  architectures: z.array(z.string()).nullish(),
  hidden_size: integer(1, MAX_WIDTH),
  intermediate_size: integer(1, MAX_WIDTH),
  num_hidden_layers: integer(1, MAX_LAYERS),
  num_attention_heads: integer(1, MAX_HEADS),
  num_key_value_heads: integer(1, MAX_HEADS).nullish(),
  head_dim: integer(2, 4096).nullish(),
  vocab_size: integer(1, MAX_VOCAB),
  max_position_embeddings: integer(1, MAX_POSITIONS).nullish(),
  rms_norm_eps: real((x) => x > 0 && x < 1, "a number between 0 and 1").nullish(),
  hidden_act: z.literal("silu", { error: (issue) => `must be "silu", but is ${show(issue.input)}` }).nullish(),
  rope_theta: real((x) => x > 0, "a number above 0").nullish(),
  rope_parameters: rope.nullish(),
  rope_scaling: rope.nullish(),
  use_sliding_window: bool.nullish(),
  sliding_window: integer(1, MAX_POSITIONS).nullish(),
  max_window_layers: integer(0, MAX_LAYERS).nullish(),
  layer_types: z.array(z.string()).nullish(),
  tie_word_embeddings: bool.nullish(),
  torch_dtype: dtype.nullish(),
  dtype: dtype.nullish(),
  bos_token_id: tokenId.nullish(),
  eos_token_id: eosTokenId.nullish(),
  pad_token_id: tokenId.nullish(),
});

const generationSchema = object({
  bos_token_id: tokenId.nullish(),
  eos_token_id: eosTokenId.nullish(),
  pad_token_id: tokenId.nullish(),
  do_sample: bool.nullish(),
  temperature: real((x) => x >= 0, "a number of at least 0").nullish(),
  top_k: integer(0, MAX_VOCAB).nullish(),
  top_p: real((x) => x > 0 && x <= 1, "a number above 0 and at most 1").nullish(),
  min_p: real((x) => x >= 0 && x <= 1, "a number from 0 to 1").nullish(),
  repetition_penalty: real((x) => x > 0, "a number above 0").nullish(),
});

function asList(ids: number | readonly number[] | null | undefined): number[] {
  if (ids === null || ids === undefined) return [];
  return [...new Set(typeof ids === "number" ? [ids] : ids)];
}

function checkTokenIds(file: string, vocabSize: number, ids: Record<string, number | readonly number[] | undefined>) {
  for (const [field, value] of Object.entries(ids)) {
    const beyond = asList(value).find((id) => id >= vocabSize);
    if (beyond !== undefined) {
      throw new ModelFileError(file, `is ${beyond}, beyond the vocabulary of ${vocabSize}`, { field });
    }
  }
}

/**
 * Checks the parsed content of a `config.json`.
 *
 * @param file name used in errors
 * @throws ModelFileError that names the file, the field and what was expected
 */
export function parseModelConfig(value: unknown, file = "config.json"): ModelConfig {
  const raw = checkShape(configSchema, value, file);
  const fail = (field: string, problem: string): never => {
    throw new ModelFileError(file, problem, { field });
  };

  const heads = raw.num_attention_heads;
  const keyValueHeads = raw.num_key_value_heads ?? heads;
  if (heads % keyValueHeads !== 0) {
    fail("num_key_value_heads", `is ${keyValueHeads}, which does not divide num_attention_heads ${heads}`);
  }
  if (raw.head_dim == null && raw.hidden_size % heads !== 0) {
    fail("hidden_size", `is ${raw.hidden_size}, which num_attention_heads ${heads} does not divide`);
  }
  const headDim = raw.head_dim ?? raw.hidden_size / heads;
  if (headDim % 2 !== 0) fail("head_dim", `is ${headDim}, but rotary embeddings need an even number`);

  for (const field of ["rope_parameters", "rope_scaling"] as const) {
    const given = raw[field];
    const type = given?.rope_type ?? given?.type ?? "default";
    if (type !== "default") {
      fail(field, `type ${show(type)} is not supported; remove it to use the model at the length it was trained for`);
    }
    if (given?.partial_rotary_factor != null && given.partial_rotary_factor !== 1) {
      fail(`${field}.partial_rotary_factor`, `must be 1, but is ${given.partial_rotary_factor}`);
    }
  }

  const layers = raw.num_hidden_layers;
  const maxPositions = raw.max_position_embeddings ?? 32768;
  if (raw.layer_types && raw.layer_types.length !== layers) {
    fail("layer_types", `names ${raw.layer_types.length} layers, but num_hidden_layers is ${layers}`);
  }
  // transformers: layers from max_window_layers on slide; a window as long as the model's positions cuts nothing.
  const slides = raw.layer_types
    ? raw.layer_types.some((type) => type !== "full_attention")
    : raw.use_sliding_window === true && (raw.max_window_layers ?? 28) < layers;
  if (slides && (raw.sliding_window ?? 4096) < maxPositions) {
    fail(
      raw.layer_types ? "layer_types" : "use_sliding_window",
      "sliding-window attention is not supported; set use_sliding_window to false to use full attention",
    );
  }

  const eosTokenIds = asList(raw.eos_token_id);
  checkTokenIds(file, raw.vocab_size, {
    bos_token_id: raw.bos_token_id ?? undefined,
    eos_token_id: eosTokenIds,
    pad_token_id: raw.pad_token_id ?? undefined,
  });

  return {
    modelType: "qwen2",
    architectures: raw.architectures ?? [],
    hiddenSize: raw.hidden_size,
    intermediateSize: raw.intermediate_size,
    numHiddenLayers: layers,
    numAttentionHeads: heads,
    numKeyValueHeads: keyValueHeads,
    headDim,
    vocabSize: raw.vocab_size,
    maxPositionEmbeddings: maxPositions,
    rmsNormEps: raw.rms_norm_eps ?? 1e-6,
    ropeTheta: raw.rope_parameters?.rope_theta ?? raw.rope_theta ?? 10000,
    tieWordEmbeddings: raw.tie_word_embeddings ?? false,
    dtype: raw.dtype ?? raw.torch_dtype ?? undefined,
    bosTokenId: raw.bos_token_id ?? undefined,
    eosTokenIds,
    padTokenId: raw.pad_token_id ?? undefined,
  };
}

/**
 * Checks the parsed content of a `generation_config.json`. What it leaves out comes from the model's config
 * (token ids) and from transformers' defaults (greedy; temperature 1, top-k 50, top-p 1, no penalty).
 *
 * @param value undefined if there is no such file
 * @throws ModelFileError that names the file, the field and what was expected
 */
export function parseGenerationConfig(
  value: unknown,
  config: ModelConfig,
  file = "generation_config.json",
): GenerationConfig {
  const raw = checkShape(generationSchema, value ?? {}, file);
  checkTokenIds(file, config.vocabSize, {
    bos_token_id: raw.bos_token_id ?? undefined,
    eos_token_id: asList(raw.eos_token_id),
    pad_token_id: raw.pad_token_id ?? undefined,
  });
  return {
    eosTokenIds: raw.eos_token_id == null ? config.eosTokenIds : asList(raw.eos_token_id),
    bosTokenId: raw.bos_token_id ?? config.bosTokenId,
    padTokenId: raw.pad_token_id ?? config.padTokenId,
    doSample: raw.do_sample ?? false,
    temperature: raw.temperature ?? 1,
    topK: raw.top_k ?? 50,
    topP: raw.top_p ?? 1,
    minP: raw.min_p ?? 0,
    repetitionPenalty: raw.repetition_penalty ?? 1,
  };
}
