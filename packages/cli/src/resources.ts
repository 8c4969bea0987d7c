import { readFileSync } from "node:fs";

/** Bytes of this process's memory at its peak, and how many of those it holds now are pages of mapped files. */
export function peakMemory(): { peak_rss_bytes: number; rss_file_bytes: number } {
  // Linux tells both; elsewhere the peak alone is known, in kilobytes.
  const status = readStatus();
  const kilobytes = (field: string): number | undefined => {
    const found = new RegExp(`^${field}:\\s+(\\d+) kB`, "m").exec(status)?.[1];
    return found === undefined ? undefined : Number(found) * 1024;
  };
  return {
    peak_rss_bytes: kilobytes("VmHWM") ?? process.resourceUsage().maxRSS * 1024,
    rss_file_bytes: kilobytes("RssFile") ?? 0,
  };
}

function readStatus(): string {
  try {
    return readFileSync("/proc/self/status", "utf8");
  } catch {
    return "";
  }
}
