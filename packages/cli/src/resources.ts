import { readFileSync } from "node:fs";

/** Bytes of this process's memory at its peak, and how many of those it holds now are pages of mapped files. */
export function peakMemory(): { peak_rss_bytes: number; rss_file_bytes: number } {
  // Linux tells both; elsewhere the peak alone is known, in kilobytes.
  const status = readStatus();
  return {
    peak_rss_bytes: statusBytes(status, "VmHWM") ?? process.resourceUsage().maxRSS * 1024,
    rss_file_bytes: statusBytes(status, "RssFile") ?? 0,
  };
}

/** Bytes of this process's memory now, and how many of those are pages of mapped files, where that is known. */
export function memoryNow(): { rss_bytes: number; rss_file_bytes: number } {
  return { rss_bytes: process.memoryUsage.rss(), rss_file_bytes: statusBytes(readStatus(), "RssFile") ?? 0 };
}

function statusBytes(status: string, field: string): number | undefined {
  const kilobytes = new RegExp(`^${field}:\\s+(\\d+) kB`, "m").exec(status)?.[1];
  return kilobytes === undefined ? undefined : Number(kilobytes) * 1024;
}

function readStatus(): string {
  try {
    return readFileSync("/proc/self/status", "utf8");
  } catch {
    return "";
  }
}
