/** Kinds of errors, each with its HTTP status. */
export const STATUS = {
  invalid_request: 400,
  authentication: 401,
  forbidden: 403,
  not_found: 404,
  timeout: 408,
  conflict: 409,
  too_large: 413,
  unprocessable: 422,
  too_many_requests: 429,
  internal: 500,
  unavailable: 503,
} as const;

export type ErrorType = keyof typeof STATUS;

/** A word for programs that says more than the type; the names are OpenAI's where it has one. */
export type ErrorCode = "context_length_exceeded" | "model_not_found" | "unsupported_value" | "unknown_parameter";

/** An answer that is an error: `{"error": {"message", "type", "param"?}}` with its type's HTTP status. */
export class ApiError extends Error {
  override readonly name = "ApiError";
  readonly type: ErrorType;
  /** The field of the body that is wrong, such as `history[2].role`. */
  readonly param: string | undefined;
  readonly code: ErrorCode | undefined;
  /** Seconds after which it makes sense to try again. */
  readonly retryAfter: number | undefined;

  constructor(
    type: ErrorType,
    message: string,
    options: { param?: string; code?: ErrorCode; retryAfter?: number; cause?: unknown } = {},
  ) {
    super(message, { cause: options.cause });
    this.type = type;
    this.param = options.param;
    this.code = options.code;
    this.retryAfter = options.retryAfter;
  }

  get status() {
    return STATUS[this.type];
  }

  /** The body of the answer. */
  toJSON() {
    return {
      error: { message: this.message, type: this.type, ...(this.param === undefined ? {} : { param: this.param }) },
    };
  }
}
