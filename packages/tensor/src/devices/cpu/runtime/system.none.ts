// A page: no files, no environment, no machine code.
import type * as system from "./system.node.ts";

/** Threads to use when the caller names no number: the processors that the browser tells of, at least 1. */
export const defaultThreads: typeof system.defaultThreads = () => globalThis.navigator?.hardwareConcurrency ?? 1;

export const missing: typeof system.missing = (isa) => (isa === "wasm" ? undefined : "a page cannot run machine code");

export const debug: typeof system.debug = { device: false, timings: false, code: false };
export const recordTime: typeof system.recordTime = () => {};
