import type { LoadedQwen, TokenConstraint } from "@tslm/qwen";
import type { ConstraintSpec } from "../backend.ts";
import { ApiError } from "../errors.ts";

/** Makes constraints for a model's tokens. */
export function constraintMaker(_qwen: LoadedQwen): (spec: ConstraintSpec) => () => TokenConstraint {
  return ({ kind }) => {
    throw new ApiError("invalid_request", `this server cannot follow a ${kind} yet`, { code: "unsupported_value" });
  };
}
