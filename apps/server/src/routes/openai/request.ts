import type { AnswerRequest, ConstraintSpec, ModelInfo } from "../../backend.ts";
import { ApiError } from "../../errors.ts";
import type { Service } from "../../service.ts";
import type { ChatBody, SamplingFields } from "./schemas.ts";

/** What chats and completions ask alike; what the body leaves out is as the model's files say. */
export function commonRequest(
  body: SamplingFields & { max_completion_tokens?: number | null },
  { config, limits }: Service,
  { sampling }: ModelInfo,
): Omit<AnswerRequest, "prompt" | "adapter"> {
  const stop = body.stop == null ? [] : [body.stop].flat();
  const topK = body.top_k ?? sampling.topK;
  return {
    sampling: {
      temperature: body.temperature ?? sampling.temperature,
      topP: body.top_p ?? sampling.topP,
      topK: topK === -1 ? 0 : topK,
      minP: body.min_p ?? sampling.minP,
      typicalP: body.typical_p ?? undefined,
      repetitionPenalty: body.repetition_penalty ?? sampling.repetitionPenalty,
      presencePenalty: body.presence_penalty ?? undefined,
      frequencyPenalty: body.frequency_penalty ?? undefined,
      logitBias: body.logit_bias ?? undefined,
      seed: body.seed == null ? undefined : natural(body.seed),
    },
    contextPolicy: body.context_policy ?? config.contextPolicy,
    maxTokens: body.max_completion_tokens ?? body.max_tokens ?? limits.maxTokens,
    n: body.n ?? 1,
    stop: stop.length > 0 ? stop : undefined,
    ignoreEnd: body.ignore_eos ?? undefined,
    stopTokens: body.stop_token_ids ?? undefined,
  };
}

/** OpenAI's seeds may be negative, ours are not. */
function natural(seed: number): number {
  return seed < 0 ? seed + 2 ** 53 : seed;
}

/** What `response_format` and `guided_regex` want of an answer. @throws ApiError when they contradict each other */
export function constraintOf({
  response_format: format,
  guided_regex: regex,
}: Pick<ChatBody, "response_format" | "guided_regex">): ConstraintSpec | undefined {
  const wantsJson = format != null && format.type !== "text";
  if (wantsJson && regex != null) {
    throw new ApiError("invalid_request", "guided_regex contradicts response_format; give one of them", {
      param: "guided_regex",
    });
  }
  if (regex != null) return { kind: "regex", pattern: regex };
  if (!wantsJson) return undefined;
  return format.type === "json_object" ? { kind: "json" } : { kind: "schema", schema: format.json_schema.schema };
}
