import type { Interrupted } from "../errors.ts";

/** Commands that run in a thread of their own. */
export const THREAD_COMMANDS = ["ask", "eval", "export", "train"] as const;
export type ThreadCommand = (typeof THREAD_COMMANDS)[number];

/** What the thread is started with. */
export interface ThreadOptions {
  readonly command: ThreadCommand;
  readonly argv: readonly string[];
  /** What the process writes to: the thread must know it to lay out what it writes. */
  readonly stdout: StreamKind;
  readonly stderr: StreamKind;
}

export interface StreamKind {
  readonly isTTY: boolean;
  /** Characters a line; undefined where it is no screen. */
  readonly columns: number | undefined;
}

/** To the thread. */
export interface ToThread {
  readonly kind: "interrupt";
  readonly signal: Interrupted["signal"];
}

/** From the thread, in order. */
export type FromThread =
  | { readonly kind: "write"; readonly where: "stdout" | "stderr"; readonly text: string }
  /** What an interruption from now on is to say. */
  | { readonly kind: "kept"; readonly sentence: string }
  /** Work that must not be cut short begins or ends. */
  | { readonly kind: "whole"; readonly isRunning: boolean }
  | { readonly kind: "end"; readonly status: number };
