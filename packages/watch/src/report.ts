import { join } from "node:path";
import { writeAtomically } from "@tslm/data";
import type { RunEvent } from "./events.ts";
import { settledEvents } from "./history.ts";
import { pageWith } from "./page/html.ts";

export const REPORT_FILE = "report.html";

/** A run as one HTML file that loads nothing: curves, samples before and after, settings, machine, time, diagnosis. */
export function renderReport(events: readonly RunEvent[]): string {
  return pageWith(settledEvents(events));
}

/** Writes `report.html` into a run's folder; its path. @throws DataError when it cannot be written */
export async function writeReport(folder: string, events: readonly RunEvent[]): Promise<string> {
  const path = join(folder, REPORT_FILE);
  await writeAtomically(path, (write) => write(renderReport(events)));
  return path;
}
