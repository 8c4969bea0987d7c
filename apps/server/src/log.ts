import pino, { type Logger } from "pino";

export const LOG_LEVELS = ["debug", "info", "warn", "error", "silent"] as const;
export type ServerLogger = Logger;
export type LogLevel = (typeof LOG_LEVELS)[number];

/** A log of JSON lines on stderr: which requests came and how they ended, never what was in them. */
export function createLogger(level: LogLevel): Logger {
  return pino(
    { level, base: undefined, timestamp: pino.stdTimeFunctions.isoTime },
    pino.destination({ fd: 2, sync: true }),
  );
}
