import { formatBytes, HubError } from "./errors.ts";

/** How requests wait and try again. All in milliseconds. */
export interface HttpOptions {
  /** From sending a request to the answer's headers. Default 15,000. */
  connectTimeout?: number;
  /**
   * For all attempts together until the hub has answered usefully once: where that takes longer, something else is to be
   * done instead. Default: no such limit.
   */
  reachTimeout?: number;
  /** Without a byte arriving. Default 30,000. */
  idleTimeout?: number;
  /** Failures in a row before giving up; a megabyte received starts the count anew. Default 6. */
  retries?: number;
  /** Before the first retry; doubles each time up to `maxRetryDelay`. Defaults 500 and 30,000. */
  retryDelay?: number;
  maxRetryDelay?: number;
  /** Longest `Retry-After` that is waited for. Default 120,000. */
  maxRetryAfter?: number;
}

/** Headers that hold a token go only to this origin, never to where it redirects. */
export interface Credentials {
  readonly origin: string;
  readonly headers: Readonly<Record<string, string>>;
}

const MAX_REDIRECTS = 8;
const USER_AGENT = "tslm/0.1";

/** A failure that may pass: worth another attempt. */
export class TransientError extends Error {
  /** What the server asked to wait, in milliseconds. */
  readonly retryAfter: number | undefined;
  /** Enough arrived that the failures before do not count. */
  readonly progressed: boolean;
  /** No connection could be made. */
  readonly unreachable: boolean;
  readonly rateLimited: boolean;

  constructor(
    message: string,
    options: {
      retryAfter?: number;
      progressed?: boolean;
      unreachable?: boolean;
      rateLimited?: boolean;
      cause?: unknown;
    } = {},
  ) {
    super(message, { cause: options.cause });
    this.retryAfter = options.retryAfter;
    this.progressed = options.progressed ?? false;
    this.unreachable = options.unreachable ?? false;
    this.rateLimited = options.rateLimited ?? false;
  }
}

/** An answer whose body is read piece by piece. `close` must be called. */
export interface Answer {
  readonly status: number;
  readonly headers: Headers;
  /** Where redirects led. */
  readonly url: string;
  /** The next piece, undefined at the end. Throws `TransientError` when the connection breaks or stalls. */
  read(): Promise<Uint8Array | undefined>;
  close(): void;
}

/** Requests to one hub, with its time limits, retries and credentials. */
export class HttpClient {
  readonly signal: AbortSignal | undefined;
  readonly #options: Required<HttpOptions>;
  readonly #credentials: Credentials | undefined;
  /** The hub has answered once, so a failing connection is more than a missing network. */
  #reached = false;
  /** The hub has answered once with something else than that it cannot answer now. */
  #works = false;
  readonly #began = performance.now();

  constructor(options: HttpOptions, signal?: AbortSignal, credentials?: Credentials) {
    this.#options = {
      connectTimeout: options.connectTimeout ?? 15_000,
      reachTimeout: options.reachTimeout ?? Number.POSITIVE_INFINITY,
      idleTimeout: options.idleTimeout ?? 30_000,
      retries: options.retries ?? 6,
      retryDelay: options.retryDelay ?? 500,
      maxRetryDelay: options.maxRetryDelay ?? 30_000,
      maxRetryAfter: options.maxRetryAfter ?? 120_000,
    };
    this.signal = signal;
    this.#credentials = credentials;
  }

  /**
   * Sends a GET request and follows redirects.
   *
   * @throws TransientError if there is no answer; any status is an answer
   */
  async get(url: string, headers: Record<string, string> = {}): Promise<Answer> {
    const controller = new AbortController();
    const onAbort = () => controller.abort(this.signal?.reason);
    this.signal?.throwIfAborted();
    this.signal?.addEventListener("abort", onAbort, { once: true });

    let timer: ReturnType<typeof setTimeout> | undefined;
    const guard = async <T>(limit: number, what: string, run: () => Promise<T>): Promise<T> => {
      const giveUp = () => controller.abort(new TransientError(`${what} for ${Math.ceil(limit / 1000)} s`));
      timer = setTimeout(giveUp, limit);
      try {
        return await run();
      } catch (error) {
        this.signal?.throwIfAborted();
        throw asTransient(controller.signal.aborted ? controller.signal.reason : error);
      } finally {
        clearTimeout(timer);
      }
    };
    const close = () => {
      clearTimeout(timer);
      this.signal?.removeEventListener("abort", onAbort);
      controller.abort();
    };

    try {
      let current = new URL(url);
      for (let hop = 0; hop <= MAX_REDIRECTS; hop++) {
        const limit = Math.min(this.#options.connectTimeout, Math.max(1, this.#timeToReach()));
        const response = await guard(limit, "no answer", () =>
          fetch(current, {
            headers: {
              "user-agent": USER_AGENT,
              "accept-encoding": "identity",
              ...headers,
              ...(current.origin === this.#credentials?.origin ? this.#credentials.headers : {}),
            },
            redirect: "manual",
            signal: controller.signal,
          }),
        );
        this.#reached = true;
        this.#works ||= response.status < 500 && response.status !== 429;
        const location = response.headers.get("location");
        if (response.status >= 300 && response.status < 400 && location !== null) {
          await response.body?.cancel();
          current = redirectTarget(current, location);
          continue;
        }
        const reader = response.body?.getReader();
        return {
          status: response.status,
          headers: response.headers,
          url: current.href,
          read: async () => {
            if (!reader) return undefined;
            const piece = await guard(this.#options.idleTimeout, "nothing arrived", () => reader.read());
            return piece.done ? undefined : piece.value;
          },
          close,
        };
      }
      throw new HubError("protocol", `${url} redirects more than ${MAX_REDIRECTS} times`);
    } catch (error) {
      close();
      throw error;
    }
  }

  /**
   * Reads a JSON answer of bounded size, trying again where that may help.
   *
   * @param describe what a status that is no success means; throws the error for it
   */
  async getJson(
    url: string,
    maxBytes: number,
    describe: (status: number, headers: Headers) => HubError,
  ): Promise<{ value: unknown; headers: Headers }> {
    return this.retry(hostOf(url), async () => {
      const answer = await this.get(url, { accept: "application/json" });
      try {
        if (answer.status !== 200) throw failure(answer, () => describe(answer.status, answer.headers));
        const pieces: Uint8Array[] = [];
        let length = 0;
        for (let piece = await answer.read(); piece; piece = await answer.read()) {
          length += piece.length;
          if (length > maxBytes) {
            throw new HubError(
              "too-large",
              `${url} answers with more than ${formatBytes(maxBytes)}; that is no file list`,
            );
          }
          pieces.push(piece);
        }
        try {
          const text = new TextDecoder("utf-8", { fatal: true }).decode(Buffer.concat(pieces));
          return { value: JSON.parse(text), headers: answer.headers };
        } catch (cause) {
          throw new HubError(
            "protocol",
            `${url} does not answer with JSON; is that a model hub, or does your network show a login page instead?`,
            { cause },
          );
        }
      } finally {
        answer.close();
      }
    });
  }

  /**
   * Runs an attempt again after each `TransientError`, waiting longer each time or as long as the server asks.
   *
   * @param onRetry told before each wait
   * @throws HubError `unavailable` or `rate-limited` when the attempts are used up
   */
  async retry<T>(
    what: string,
    attempt: () => Promise<T>,
    onRetry?: (reason: string, delay: number) => void,
  ): Promise<T> {
    const { retries, retryDelay, maxRetryDelay, maxRetryAfter } = this.#options;
    for (let failures = 0; ; ) {
      try {
        return await attempt();
      } catch (error) {
        this.signal?.throwIfAborted();
        if (!(error instanceof TransientError)) throw error;
        failures = error.progressed ? 1 : failures + 1;
        // Without a network, waiting through all attempts would only delay the news.
        const allowed = error.unreachable && !this.#reached ? Math.min(retries, 1) : retries;
        const tooLong = error.retryAfter !== undefined && error.retryAfter > maxRetryAfter;
        const backoff = Math.min(maxRetryDelay, retryDelay * 2 ** (failures - 1)) * (0.75 + Math.random() / 2);
        const delay = error.retryAfter ?? backoff;
        if (failures > allowed || tooLong || delay >= this.#timeToReach()) {
          throw givenUp(what, error, failures, this.#works);
        }
        onRetry?.(error.message, delay);
        await sleep(delay, this.signal);
      }
    }
  }

  /** Milliseconds that are left to reach the hub. */
  #timeToReach(): number {
    return this.#works ? Number.POSITIVE_INFINITY : this.#options.reachTimeout - (performance.now() - this.#began);
  }
}

function givenUp(what: string, error: TransientError, failures: number, works: boolean): HubError {
  if (error.rateLimited) {
    const wait = error.retryAfter === undefined ? "a while" : `${Math.ceil(error.retryAfter / 1000)} s`;
    return new HubError("rate-limited", `${what} answers too many requests (429); run it again in ${wait}`, {
      cause: error,
    });
  }
  const advice =
    error.unreachable || !works
      ? "check the network, or use another source or --endpoint that can be reached"
      : "run it again later: what has arrived is kept";
  const times = failures === 1 ? "" : ` (tried ${failures} times)`;
  return new HubError("unavailable", `${what} cannot be reached: ${error.message}${times}`, { advice, cause: error });
}

/** The error for a status that is no success: transient if the server may recover, else what `describe` says. */
export function failure(answer: Answer, describe: () => HubError): Error {
  const { status, headers } = answer;
  if (status === 429 || status === 503) {
    return new TransientError(`status ${status}`, {
      retryAfter: parseRetryAfter(headers.get("retry-after")),
      rateLimited: status === 429,
    });
  }
  if (status === 408 || status === 425 || status >= 500) return new TransientError(`status ${status}`);
  return describe();
}

/** Seconds or a date, to milliseconds from now. */
export function parseRetryAfter(value: string | null, now = Date.now()): number | undefined {
  if (value === null) return undefined;
  const seconds = /^\s*\d+\s*$/.test(value) ? Number(value) * 1000 : Date.parse(value) - now;
  return Number.isFinite(seconds) ? Math.max(0, seconds) : undefined;
}

function redirectTarget(from: URL, location: string): URL {
  const target = URL.canParse(location, from.href) ? new URL(location, from.href) : undefined;
  const allowed =
    target && (target.protocol === "https:" || (target.protocol === "http:" && from.protocol === "http:"));
  if (allowed) return target;
  throw new HubError(
    "protocol",
    `${from.href} redirects to ${JSON.stringify(location.slice(0, 200))}, which is not followed`,
  );
}

/** Codes of failures to connect at all, and what they mean. */
const NO_CONNECTION: Readonly<Record<string, string>> = {
  ECONNREFUSED: "the connection was refused",
  ConnectionRefused: "the connection was refused",
  ENOTFOUND: "its address could not be found",
  EAI_AGAIN: "its address could not be found",
  ENETUNREACH: "there is no way to its network",
  EHOSTUNREACH: "there is no way to it",
};

function asTransient(error: unknown): unknown {
  if (error instanceof HubError || error instanceof TransientError) return error;
  const { code = "", message = String(error) } = error as { code?: string; message?: string };
  if (/CERT|TLS|SSL|SELF_SIGNED/i.test(code)) {
    return new HubError("unavailable", `the connection is not secure: ${message}; check the clock and any proxy`, {
      cause: error,
    });
  }
  const noConnection = NO_CONNECTION[code];
  return new TransientError(noConnection ?? message, { cause: error, unreachable: noConnection !== undefined });
}

/** The part of a URL that names the server, for messages. */
export function hostOf(url: string): string {
  return new URL(url).host;
}

function sleep(milliseconds: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    const onAbort = () => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", onAbort);
      resolve();
    }, milliseconds);
    signal?.addEventListener("abort", onAbort, { once: true });
  });
}
