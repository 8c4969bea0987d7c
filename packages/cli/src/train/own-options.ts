/** Options of `train` that belong to a call, not to the run: no run file sets them, and no checkpoint remembers them. */
export const OF_THE_CALL = ["json", "debug", "resume", "config", "init", "estimate"] as const;
