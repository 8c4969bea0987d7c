import { ApiError } from "../errors.ts";

/** Names that only this machine's own programs use for it. */
const LOCAL = /^(localhost|127(\.\d{1,3}){3}|\[::1\])$/i;

export interface OriginRules {
  /** Origins of pages that may call, or `*`. */
  readonly corsOrigins: readonly string[];
  /** Further names of this server. */
  readonly hosts: readonly string[];
  /** Are there keys? Then a page that has none gets nothing anyway. */
  readonly hasKeys: boolean;
  /** Does only this machine reach the server? */
  readonly isLocal: boolean;
}

/**
 * Refuses what a web page of someone else's sends through the user's browser: to a server on the user's own machine that wants no
 * key, any page could speak. Its `Origin` gives it away, and a name that was pointed at 127.0.0.1 (DNS rebinding) its `Host`.
 *
 * @throws ApiError "forbidden"
 */
export function checkOrigin(headers: Headers, rules: OriginRules): void {
  const host = headers.get("host") ?? "";
  const name = host.replace(/:\d+$/, "");
  if (rules.isLocal && !rules.hasKeys && !LOCAL.test(name) && !rules.hosts.includes(name)) {
    throw new ApiError(
      "forbidden",
      `this server is not called ${JSON.stringify(name.slice(0, 100))}; name it in hosts, or set a key`,
    );
  }
  const origin = headers.get("origin");
  if (origin === null || mayCall(origin, rules.corsOrigins)) return;
  // Behind a proxy that ends TLS the scheme differs; the name and the port say whose page it is.
  if (URL.canParse(origin) && new URL(origin).host === host) return;
  throw new ApiError(
    "forbidden",
    `pages of ${JSON.stringify(origin.slice(0, 100))} may not call this server; name the origin in cors-origins`,
  );
}

/** Is it one of the origins whose pages may call? */
export function mayCall(origin: string, allowed: readonly string[]): boolean {
  return allowed.includes("*") || allowed.includes(origin);
}
