import {
  ConstraintError,
  type ConstraintFactory,
  jsonConstraint,
  jsonSchemaConstraint,
  type LoadedQwen,
  regexConstraint,
} from "@tslm/qwen";
import type { ConstraintSpec } from "../backend.ts";
import { ApiError } from "../errors.ts";

/** Constraints that are kept: applications ask with the same few schemas again and again. */
const KEPT = 16;

/** Makes constraints for a model's tokens. @throws ApiError "invalid_request" for what cannot be followed */
export function constraintMaker({
  tokenizer,
  generationConfig,
}: LoadedQwen): (spec: ConstraintSpec) => ConstraintFactory {
  const kept = new Map<string, ConstraintFactory>();
  const options = { endTokens: generationConfig.eosTokenIds };
  return (spec) => {
    const key = JSON.stringify(spec);
    const made = kept.get(key) ?? compile(spec);
    // The one used last stands last, and the first one goes.
    kept.delete(key);
    kept.set(key, made);
    if (kept.size > KEPT) kept.delete(kept.keys().next().value!);
    return made;
  };

  function compile(spec: ConstraintSpec): ConstraintFactory {
    try {
      if (spec.kind === "json") return jsonConstraint(tokenizer, options);
      if (spec.kind === "regex") return regexConstraint(spec.pattern, tokenizer, options);
      return jsonSchemaConstraint(spec.schema, tokenizer, options);
    } catch (cause) {
      if (!(cause instanceof ConstraintError)) throw cause;
      const param = spec.kind === "regex" ? "guided_regex" : "response_format";
      throw new ApiError("invalid_request", `${param}: ${cause.message}`, { param, code: "unsupported_value", cause });
    }
  }
}
