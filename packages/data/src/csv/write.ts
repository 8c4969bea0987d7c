import Papa from "papaparse";

/** One row of a CSV as RFC 4180 writes it, with commas, and a line feed at its end. */
export function formatCsvRow(cells: readonly string[]): string {
  // A row of nothing but one empty cell would be a blank line, which readers skip.
  const quotes = cells.length === 1 && cells[0].trim() === "";
  return `${Papa.unparse([[...cells]], { newline: "\n", quotes })}\n`;
}
