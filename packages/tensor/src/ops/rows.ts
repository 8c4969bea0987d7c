import type { RowsKind } from "../devices/device.ts";

let named: RowsKind | undefined;

/** What {@link rowsAs} says now; undefined: the number of rows decides. */
export function rowsKind(): RowsKind | undefined {
  return named;
}

/**
 * Makes matrix products and attention in `body` by the means for few rows or for many, whatever their number: a token's
 * numbers are then the same alone and beside others. Synchronous; for passes without a gradient.
 *
 * @example rowsAs("few", () => model.hidden(pass)) // 30 sequences decoded at once, each rounded as if alone
 */
export function rowsAs<T>(kind: RowsKind, body: () => T): T {
  const before = named;
  named = kind;
  try {
    return body();
  } finally {
    named = before;
  }
}
