/** What a request may bring and what is done at once. */
export interface Limits {
  /** Bytes of a body. */
  readonly bodyBytes: number;
  /** Seconds in which a body must have come. */
  readonly bodySeconds: number;
  /** Bytes of all bodies that are being sent. */
  readonly receivingBytes: number;
  /** Brackets inside brackets of the JSON. */
  readonly nesting: number;
  /** UTF-16 code units of a message or a text. */
  readonly messageLength: number;
  /** Messages before the last one. */
  readonly historyLength: number;
  /** Most tokens a client may ask for. */
  readonly maxTokens: number;
  /** Answers to one prompt. */
  readonly choices: number;
  /** Inputs of one request for completions or embeddings. */
  readonly inputs: number;
  /** Tools of a request. */
  readonly tools: number;
  /** Stop texts of a request. */
  readonly stops: number;
  /** Likeliest tokens told at each place. */
  readonly topLogprobs: number;
  /** Requests that are answered at once. */
  readonly concurrency: number;
  /** Requests that may wait while others are answered. */
  readonly queue: number;
  /** Requests of one key, or of one address where there are no keys, that run or wait. */
  readonly perClient: number;
  /** Seconds an answer may take, waiting included. */
  readonly answerSeconds: number;
  /** Bytes of a stream that wait for a slow reader before its answer is ended. */
  readonly unreadBytes: number;
  /** Requests that are being sent, computed or read. */
  readonly openRequests: number;
  /** Seconds after an answer's end in which the client must have read it and asked anew; then the connection is closed. */
  readonly idleSeconds: number;
}

export const DEFAULT_LIMITS: Limits = {
  bodyBytes: 1 << 20,
  bodySeconds: 30,
  receivingBytes: 64 << 20,
  nesting: 32,
  messageLength: 32_768,
  historyLength: 200,
  maxTokens: 4096,
  choices: 16,
  inputs: 64,
  tools: 64,
  stops: 16,
  topLogprobs: 20,
  concurrency: 16,
  queue: 16,
  perClient: 64,
  answerSeconds: 600,
  unreadBytes: 4 << 20,
  openRequests: 1024,
  idleSeconds: 75,
};
