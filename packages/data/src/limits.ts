/** Bounds on what a file may ask of memory. A file beyond one is refused with a sentence that names the option. */
export interface Limits {
  /** Longest cell or field, in UTF-16 code units; a CSV's cell is measured as it stands in the file. Default 1,000,000. */
  maxCellLength?: number;
  /** Most rows. */
  maxRows?: number;
}

export const DEFAULT_MAX_CELL_LENGTH = 1_000_000;
/** Default of `maxRows` where all rows are held in memory. */
export const DEFAULT_MAX_ROWS = 1_000_000;
/** Default of `maxFileBytes`: 1 GiB. */
export const DEFAULT_MAX_FILE_BYTES = 2 ** 30;

export function formatCount(count: number): string {
  return count.toLocaleString("en-US");
}
