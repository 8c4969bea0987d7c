import { createHash, timingSafeEqual } from "node:crypto";
import type { ApiKey } from "../config/schema.ts";
import { ApiError } from "../errors.ts";

/** The SHA-256 of a key in hexadecimal, as the configuration holds it. */
export function hashOfKey(key: string): string {
  return createHash("sha256").update(key).digest("hex");
}

/**
 * The key that a request brought as `Authorization: Bearer KEY`, or as `api-key` or `x-api-key`; undefined where the server
 * wants none.
 *
 * @throws ApiError "authentication"
 */
export function authenticate(headers: Headers, keys: readonly ApiKey[]): ApiKey | undefined {
  if (keys.length === 0) return undefined;
  const bearer = /^Bearer +(.+)$/i.exec(headers.get("authorization") ?? "")?.[1];
  const given = bearer ?? headers.get("api-key") ?? headers.get("x-api-key") ?? undefined;
  if (given !== undefined) {
    const hash = Buffer.from(hashOfKey(given), "hex");
    let found: ApiKey | undefined;
    // All are looked at, so that the time tells nothing.
    for (const key of keys) if (timingSafeEqual(hash, Buffer.from(key.sha256, "hex"))) found = key;
    if (found !== undefined) return found;
  }
  throw new ApiError("authentication", "this server wants its API key as a header: Authorization: Bearer KEY");
}
