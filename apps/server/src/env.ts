import type { Context as HonoContext } from "hono";
import type { ApiKey } from "./config/schema.ts";
import type { Receiving } from "./http/body.ts";

/** Whose request it is. */
export interface Client {
  /** Name of the key, or the address where there are no keys. */
  readonly name: string;
  readonly key: ApiKey | undefined;
}

/** What the request's way through the server has found out so far. */
export interface Env {
  Variables: {
    requestId: string;
    client: Client;
    /** Address the request came from. */
    address: string;
    /** What the log tells beside route, status and time. */
    outcome: Record<string, unknown>;
    /** Bodies of all requests that are being sent. */
    receiving: Receiving;
    /** Called when nothing more comes of the answer; a stream takes it over, and leaves undefined. */
    whenComplete: (() => void) | undefined;
  };
}

export type Context = HonoContext<Env>;
