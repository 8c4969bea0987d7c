import type { RunEvent } from "../events.ts";

/** What the buttons of the page ask for. */
export const PAGE_ACTIONS = ["stop", "save"] as const;
export type PageAction = (typeof PAGE_ACTIONS)[number];

/** What the page's thread is started with. */
export interface PageThreadOptions {
  /** Undefined: the usual one, or a free one where that is taken. */
  readonly port: number | undefined;
}

/** To the page's thread. */
export type ToPage =
  | { readonly kind: "event"; readonly event: RunEvent }
  /** No more events: end when what was sent is on its way. */
  | { readonly kind: "close" };

/** From the page's thread. */
export type FromPage =
  | { readonly kind: "listening"; readonly url: string }
  | { readonly kind: "failed"; readonly message: string }
  | { readonly kind: "action"; readonly action: PageAction };
