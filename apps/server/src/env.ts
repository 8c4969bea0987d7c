import type { Context as HonoContext } from "hono";
import type { ApiKey } from "./config/schema.ts";

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
  };
}

export type Context = HonoContext<Env>;
