import { createHash } from "node:crypto";
import { z } from "zod";

/** The settings that a search chooses; the number of epochs is the halving's. */
export const SEARCHED = ["rank", "alpha", "lr", "repeat"] as const;
export type Searched = (typeof SEARCHED)[number];

/** The settings of one trial. `repeat`: how often the rows of the sample questions are seen. */
export const settingsSchema = z.object({
  rank: z.int().min(1),
  alpha: z.number().positive(),
  lr: z.number().positive(),
  repeat: z.int().min(1),
});
export type Settings = z.output<typeof settingsSchema>;

/** Some values, or all from `min` to `max`, of which each factor is as likely as another (log-uniform). */
export type Dimension = { readonly values: readonly number[] } | { readonly min: number; readonly max: number };

const RANGE = /^\s*(\S+?)\s*\.\.\s*(\S+)\s*$/;
/** `NaN` for what is no number; an empty text is none. */
const numberOf = (text: string): number => (text.trim() === "" ? Number.NaN : Number(text));

/**
 * Reads `8`, `4,8,16` or `1e-4..3e-3`, or what a YAML file has in their place: a number, a list.
 *
 * @param what what each number must be, to go on from "must be"
 */
function dimension(isValid: (x: number) => boolean, what: string) {
  const want = `${what}: one, several such as 4,8,16, or a range such as 4..32`;
  return z
    .union([z.string(), z.number(), z.array(z.number()).min(1, want)], want)
    .transform((given, context): Dimension => {
      const range = typeof given === "string" ? RANGE.exec(given) : null;
      const list = typeof given === "string" ? given.split(",").map(numberOf) : [given].flat();
      const numbers = range ? range.slice(1).map(numberOf) : list;
      const [min, max] = numbers;
      if (numbers.every((x) => Number.isFinite(x) && isValid(x)) && (!range || min <= max)) {
        return range && min < max ? { min, max } : { values: [...new Set(range ? [min] : numbers)] };
      }
      context.addIssue({ code: "custom", message: want });
      return z.NEVER;
    });
}

const isCount = (most: number) => (x: number) => Number.isInteger(x) && x >= 1 && x <= most;
const counts = (most: number) => dimension(isCount(most), `whole numbers from 1 to ${most}`);
const positives = dimension((x) => x > 0, "numbers above 0");

/** The schema of each part of a space, as text or as YAML has it. */
export const DIMENSIONS = {
  rank: counts(4096),
  alpha: positives,
  lr: positives,
  repeat: counts(1000),
  epochs: counts(100_000).refine((given) => "min" in given || given.values.length === 1, {
    error: "the fewest and the most epochs of a trial, such as 2..18, or one number",
  }),
} as const;

/** A search space, as a file has it; what it leaves out is {@link DEFAULT_SPACE}'s. */
export const spaceSchema = z.strictObject(DIMENSIONS).partial();
export type Space = Required<z.output<typeof spaceSchema>>;

export const DEFAULT_SPACE: Space = {
  rank: { values: [4, 8, 16] },
  alpha: { values: [16, 32, 64] },
  lr: { min: 1e-4, max: 3e-3 },
  repeat: { values: [1, 2, 4, 8] },
  epochs: { min: 2, max: 18 },
};

/** The least and the most of a dimension. */
export function bounds(given: Dimension): { min: number; max: number } {
  return "min" in given ? given : { min: Math.min(...given.values), max: Math.max(...given.values) };
}

/** How a dimension is written: `4,8,16` or `1e-4..3e-3`. */
export function formatDimension(given: Dimension): string {
  return "min" in given ? `${given.min}..${given.max}` : given.values.join(",");
}

/** A number from 0 up to 1 that belongs to a seed, an index and a name: the order of the draws does not matter. */
function uniform(seed: number, index: number, name: string): number {
  const hash = createHash("sha256").update(`${seed}:${index}:${name}`).digest();
  return hash.readUIntBE(0, 6) / 2 ** 48;
}

function draw(name: Searched, given: Dimension, u: number): number {
  if ("values" in given) return given.values[Math.floor(u * given.values.length)];
  const { min, max } = given;
  const value = min * (max / min) ** u;
  if (name === "rank" || name === "repeat") return Math.min(max, Math.max(min, Math.round(value)));
  // Two digits are as many as anyone wants to type.
  return Math.min(max, Math.max(min, Number(value.toPrecision(2))));
}

/** So many draws in a row that are all known already: there are no others worth looking for. */
const PATIENCE = 2000;

/**
 * The settings of the trial with a number, from 0: random search (Bergstra and Bengio, 2012). They depend on space and seed
 * alone, and no two trials have the same; undefined where the space has no more.
 */
export function drawsOf(space: Space, seed: number): (trial: number) => Settings | undefined {
  const drawn: Settings[] = [];
  const known = new Set<string>();
  let [index, last] = [0, 0];
  return (trial) => {
    for (; drawn.length <= trial && index - last <= PATIENCE; index++) {
      const settings = Object.fromEntries(
        SEARCHED.map((name) => [name, draw(name, space[name], uniform(seed, index, name))]),
      ) as Settings;
      const key = JSON.stringify(settings);
      if (known.has(key)) continue;
      known.add(key);
      drawn.push(settings);
      last = index;
    }
    return drawn[trial];
  };
}
