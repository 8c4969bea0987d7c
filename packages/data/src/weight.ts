import { z } from "zod";
import type { CsvFile } from "./csv/read.ts";
import { DataError, type DataErrorPlace, quoteName } from "./error.ts";

/** The field or column that says how much a row counts in training, as against 1. */
export const WEIGHT = "weight";

const NUMBER = /^\d+(?:\.\d+)?$/;

const isWeight = (value: unknown): value is number => typeof value === "number" && Number.isFinite(value) && value > 0;

function problem(value: string): string {
  return `the weight is ${value}; it must be a number above 0 (leave a row out instead of giving it 0), or have another name`;
}

/** The weight of a JSON row; 1 where there is none. */
export const weightField = z
  .custom<number>(isWeight, { error: ({ input }) => problem(JSON.stringify(input)) })
  .optional();

/** Reads a CSV's column `weight`, if there is one; an empty cell is no weight. @throws DataError for what is none */
export function weightOf(csv: CsvFile): (cells: readonly string[], place: DataErrorPlace) => number | undefined {
  const at = csv.columns.findIndex((column) => column.trim() === WEIGHT);
  return (cells, place) => {
    const text = at < 0 ? "" : cells[at].trim();
    if (text === "") return undefined;
    if (NUMBER.test(text) && isWeight(Number(text))) return Number(text);
    throw new DataError("field", { ...place, column: WEIGHT }, problem(quoteName(text)));
  };
}
