import { join } from "node:path";
import { writeAtomically } from "@tslm/data";
import { selfContainedPage } from "@tslm/watch";
import type { TrialResult } from "../result.ts";
import type { Settings } from "../space.ts";
import source from "./page.html" with { type: "text" };

export const REPORT_FILE = "tune.html";

/** A result with the settings that it came of. */
export type SettledResult = TrialResult & { readonly settings: Settings };

/** What the page shows. */
export interface SearchReport {
  readonly best?: SettledResult;
  /** The folder of the best adapter. */
  readonly adapter?: string;
  /** The command that trains with the best settings. */
  readonly command?: string;
  /** What each trial came to at last, the best first. */
  readonly trials: readonly SettledResult[];
  /** Every training. */
  readonly results: readonly SettledResult[];
  readonly trainings: number;
  readonly seconds: number;
}

/** A search as one HTML file that loads nothing: table, curves, what each setting did. */
export function renderSearch(report: SearchReport): string {
  return selfContainedPage(source as unknown as string, report);
}

/** Writes {@link REPORT_FILE} into a search's folder; its path. @throws DataError when it cannot be written */
export async function writeSearchReport(folder: string, report: SearchReport): Promise<string> {
  const path = join(folder, REPORT_FILE);
  await writeAtomically(path, (write) => write(renderSearch(report)));
  return path;
}
