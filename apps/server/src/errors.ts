/** Kinds of errors, each with its HTTP status. */
export const STATUS = {
  invalid_request: 400,
  authentication: 401,
  not_found: 404,
  too_large: 413,
  unprocessable: 422,
  too_many_requests: 429,
  internal: 500,
  unavailable: 503,
} as const;

export type ErrorType = keyof typeof STATUS;

/** An answer that is an error: `{"error": {"message", "type", "param"?}}` with its type's HTTP status. */
export class ApiError extends Error {
  override readonly name = "ApiError";
  readonly type: ErrorType;
  /** The field of the body that is wrong, such as `history[2].role`. */
  readonly param: string | undefined;
  /** Seconds after which it makes sense to try again. */
  readonly retryAfter: number | undefined;

  constructor(
    type: ErrorType,
    message: string,
    options: { param?: string; retryAfter?: number; cause?: unknown } = {},
  ) {
    super(message, { cause: options.cause });
    this.type = type;
    this.param = options.param;
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
