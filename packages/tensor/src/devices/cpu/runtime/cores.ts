// How many threads compute: physical cores that this process may use. A second hyper-thread of a core adds nothing to
// kernels that already fill its multipliers, and a container's quota throttles what exceeds it.
import { builtin } from "./builtin.ts";

/** Reads a small text file; undefined when it cannot be read. Replaced in tests. */
export type ReadText = (path: string) => string | undefined;

export const readSystemText: ReadText = (path) => {
  try {
    return builtin("node:fs")?.readFileSync(path, "utf8");
  } catch {
    return undefined;
  }
};

/** Number of whole cores that a cgroup's quota allows, or undefined without one (cgroup v2 and v1). */
export function cgroupCores(read: ReadText): number | undefined {
  let least = Number.POSITIVE_INFINITY;
  const consider = (quota: number, period: number) => {
    if (quota > 0 && period > 0) least = Math.min(least, quota / period);
  };
  for (const line of (read("/proc/self/cgroup") ?? "").split("\n")) {
    const [, controllers, path] = /^\d+:([^:]*):(.*)$/.exec(line) ?? [];
    if (path === undefined) continue;
    // A limit may stand on any level from the process's group up; in a container the mount shows the group as the root.
    for (let level = path.replace(/\/$/, ""); ; level = level.slice(0, level.lastIndexOf("/"))) {
      if (controllers === "") {
        const [quota, period] = (read(`/sys/fs/cgroup${level}/cpu.max`) ?? "").split(" ");
        if (quota !== "max") consider(Number(quota), Number(period));
      } else if (controllers!.split(",").includes("cpu")) {
        const folder = `/sys/fs/cgroup/cpu${level}`;
        consider(Number(read(`${folder}/cpu.cfs_quota_us`)), Number(read(`${folder}/cpu.cfs_period_us`)));
      }
      if (level === "") break;
    }
  }
  return Number.isFinite(least) ? Math.max(1, Math.floor(least)) : undefined;
}

/** Number of distinct physical cores among the given processors (Linux sysfs); each its own where nothing is known. */
export function distinctCores(processors: readonly number[], read: ReadText): number {
  const groups = new Set<string>();
  for (const processor of processors) {
    const siblings = read(`/sys/devices/system/cpu/cpu${processor}/topology/thread_siblings_list`);
    groups.add(siblings?.trim() || `cpu${processor}`);
  }
  return Math.max(1, groups.size);
}

/** Processors that this thread may run on (Linux), or undefined where the system does not say. */
export function allowedProcessors(read: ReadText): number[] | undefined {
  const list = /^Cpus_allowed_list:\s*(\S+)$/m.exec(read("/proc/self/status") ?? "")?.[1];
  return list?.split(",").flatMap((range) => {
    const [first, last = first] = range.split("-").map(Number);
    return Array.from({ length: last! - first! + 1 }, (_, i) => first! + i);
  });
}

/** Threads to use when the caller names no number: physical cores within affinity and container limits, at least 1. */
export function defaultThreads(read: ReadText = readSystemText): number {
  const processors = allowedProcessors(read);
  const cores = processors
    ? distinctCores(processors, read)
    : (globalThis.navigator?.hardwareConcurrency ?? builtin("node:os")?.availableParallelism() ?? 1);
  return Math.max(1, Math.min(cores, cgroupCores(read) ?? cores));
}
