import type { ApiError } from "../errors.ts";

/** In which words a family of routes tells its errors. */
export type ErrorStyle = "plain" | "openai" | "ollama";

/** The family that a path belongs to. */
export function errorStyleOf(path: string): ErrorStyle {
  if (path.startsWith("/v1/")) return "openai";
  return path.startsWith("/api/") ? "ollama" : "plain";
}

/** OpenAI's `type` and `code` for ours. */
const OPENAI = {
  invalid_request: ["invalid_request_error", null],
  authentication: ["invalid_request_error", "invalid_api_key"],
  forbidden: ["permission_error", null],
  not_found: ["invalid_request_error", null],
  timeout: ["server_error", "timeout"],
  conflict: ["invalid_request_error", null],
  too_large: ["invalid_request_error", "request_too_large"],
  unprocessable: ["invalid_request_error", null],
  too_many_requests: ["requests", "rate_limit_exceeded"],
  internal: ["server_error", null],
  unavailable: ["server_error", "service_unavailable"],
} as const;

/** The body and status of an error's answer. */
export function showError(error: ApiError, style: ErrorStyle) {
  const { status, message, param } = error;
  if (style === "plain") return { status, body: error.toJSON() };
  // What the model has no room for is a bad request in OpenAI's interface, and in Ollama's.
  const shown = status === 422 ? (400 as const) : status;
  if (style === "ollama") return { status: shown, body: { error: message } };
  const [type, code] = OPENAI[error.type];
  return { status: shown, body: { error: { message, type, param: param ?? null, code: error.code ?? code } } };
}
