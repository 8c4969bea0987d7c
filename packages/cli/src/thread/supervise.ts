import { EXIT, exitStatus, explain, type Interrupted } from "../errors.ts";
import { interruption, NOTHING_WRITTEN } from "../run.ts";
import type { Terminal } from "../terminal.ts";
import type { FromThread, ToThread } from "./protocol.ts";

/** How long an interrupted command may take to end by itself: until then it can tidy up after itself. */
const GRACE_MS = 1000;

/** Clears the line of a bar and puts back what it took from the screen: the cursor and the wrapping of lines. */
const END_OF_BAR = "\r\u001b[K\u001b[?25h\u001b[?7h";

/** What is needed of a `Worker`. */
export interface Thread {
  on(event: "message", listener: (message: FromThread) => void): unknown;
  on(event: "error", listener: (error: Error) => void): unknown;
  on(event: "exit", listener: () => void): unknown;
  postMessage(message: ToThread): void;
}

export interface Supervision {
  /** The exit status: when the thread ends, or when it does not though it should. */
  readonly status: Promise<number>;
  /** Tells the thread to stop; where it does not within the grace, as in the middle of a pass, it is not waited for. */
  interrupt(reason: Interrupted): void;
  /** Stops waiting for the thread of an interrupted command. */
  leave(): void;
}

/** Follows a command's thread: writes what it says and ends with it, or without it. */
export function supervise(thread: Thread, terminal: Terminal, graceMs = GRACE_MS): Supervision {
  let kept = NOTHING_WRITTEN;
  let isWhole = false;
  let interrupted: Interrupted | undefined;
  let timer: ReturnType<typeof setTimeout> | undefined;
  let isOver = false;
  const { promise, resolve } = Promise.withResolvers<number>();

  const end = (status: number): void => {
    isOver = true;
    clearTimeout(timer);
    resolve(status);
  };
  const fail = (error: Error): void => {
    if (isOver) return;
    terminal.say(terminal.colors.red(`error: ${explain(error)}`));
    end(EXIT.failed);
  };
  const leave = (): void => {
    if (isOver) return;
    terminal.say(`${terminal.isScreen ? END_OF_BAR : ""}${interruption(kept)}`);
    end(exitStatus(interrupted));
  };
  const waitAWhile = (): void => {
    clearTimeout(timer);
    if (interrupted !== undefined && !isWhole) timer = setTimeout(leave, graceMs);
  };

  thread.on("message", (message) => {
    if (isOver) return;
    switch (message.kind) {
      case "write":
        if (message.where === "stdout") terminal.out(message.text);
        else terminal.err(message.text);
        return;
      case "kept":
        kept = message.sentence;
        return;
      case "whole":
        isWhole = message.isRunning;
        waitAWhile();
        return;
      case "end":
        end(message.status);
    }
  });
  thread.on("error", fail);
  thread.on("exit", () => fail(new Error("the command's thread ended in the middle of its work")));
  return {
    status: promise,
    interrupt(reason) {
      interrupted = reason;
      if (isWhole) terminal.say("It ends when what is running is done and saved.");
      thread.postMessage({ kind: "interrupt", signal: reason.signal });
      waitAWhile();
    },
    leave,
  };
}
