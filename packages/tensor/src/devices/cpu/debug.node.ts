// What `TENSOR_DEBUG` shows on stderr: 1 the device and its tier, 2 also the time of every kernel at the end of the
// process, 4 also the code of every kernel as it is made.

const level = Number(globalThis.process?.env?.TENSOR_DEBUG) || 0;

export const debug = { device: level >= 1, timings: level >= 2, code: level >= 4 } as const;

interface Timing {
  calls: number;
  ms: number;
}

const timings = new Map<string, Timing>();

/** Adds a call that took `ms` to a kernel's time; the first one has all times told when the process ends. */
export function recordTime(kernel: string, ms: number): void {
  if (timings.size === 0) globalThis.process?.on("exit", () => console.error(timingTable()));
  let timing = timings.get(kernel);
  if (!timing) timings.set(kernel, (timing = { calls: 0, ms: 0 }));
  timing.calls++;
  timing.ms += ms;
}

/** Kernels by their time, the longest first. */
export function timingTable(): string {
  const rows = [...timings].sort(([, a], [, b]) => b.ms - a.ms);
  const line = (name: string, calls: string, ms: string, each: string) =>
    `${name.padEnd(28)}${calls.padStart(9)}${ms.padStart(12)}${each.padStart(12)}`;
  return [
    line("kernel", "calls", "ms", "us a call"),
    ...rows.map(([name, { calls, ms }]) => line(name, `${calls}`, ms.toFixed(1), ((1000 * ms) / calls).toFixed(1))),
  ].join("\n");
}
