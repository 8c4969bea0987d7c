import { median, sampleRankCorrelation } from "simple-statistics";
import { isUsable, type TrialResult } from "./result.ts";
import { type Dimension, SEARCHED, type Searched, type Settings, type Space } from "./space.ts";

/** How the trials with some values of a setting did. */
export interface Group {
  /** `8`, or `1e-4..5e-4`. */
  readonly label: string;
  readonly trials: number;
  /** Mean share of the facts that were answered; undefined where none is known. */
  readonly answered: number | undefined;
  /** Median of the loss that decides. */
  readonly loss: number | undefined;
  /** Trials that failed or broke the model. */
  readonly broken: number;
}

/** What a setting did. */
export interface Effect {
  readonly setting: Searched;
  /** Spearman's rank correlation of the value with the loss, −1 to 1; undefined where it says nothing. */
  readonly correlation: number | undefined;
  readonly groups: readonly Group[];
}

/** Fewer trials say nothing about a correlation. */
const ENOUGH = 5;

/** The validation loss, or where there is none the training loss. */
export function lossOf({ validation_loss, loss }: TrialResult): number | undefined {
  return validation_loss ?? loss;
}

/**
 * What each setting that was searched over did, seen at the lowest rung, where all trials are: they had the same number
 * of epochs there. Settings with one value are left out.
 */
export function effects(
  space: Space,
  results: readonly TrialResult[],
  settingsOf: (trial: number) => Settings,
): Effect[] {
  const bottom = results.filter(({ rung }) => rung === 0);
  const searched = SEARCHED.filter((name) => "min" in space[name] || space[name].values.length > 1);
  return searched.map((setting) => {
    const chosenIn = (result: TrialResult): number => settingsOf(result.trial)[setting];
    const known = bottom.filter((result) => isUsable(result) && lossOf(result) !== undefined);
    const values = known.map(chosenIn);
    const correlation =
      known.length >= ENOUGH && new Set(values).size > 1
        ? sampleRankCorrelation(
            values,
            known.map((result) => lossOf(result)!),
          )
        : undefined;
    const groups = partsOf(space[setting]).map(({ label, holds }): Group => {
      const members = bottom.filter((result) => holds(chosenIn(result)));
      const usable = members.filter(isUsable);
      const answered = usable.flatMap((result) => result.answered ?? []);
      const losses = usable.flatMap((result) => lossOf(result) ?? []);
      return {
        label,
        trials: members.length,
        answered: answered.length > 0 ? answered.reduce((sum, x) => sum + x, 0) / answered.length : undefined,
        loss: losses.length > 0 ? median(losses) : undefined,
        broken: members.length - usable.length,
      };
    });
    const isKnown = correlation !== undefined && Number.isFinite(correlation);
    return {
      setting,
      correlation: isKnown ? correlation : undefined,
      groups: groups.filter(({ trials }) => trials > 0),
    };
  });
}

/** A range is told in three parts, each as many times as large as the one before. */
const PARTS = 3;

function partsOf(given: Dimension): { label: string; holds: (x: number) => boolean }[] {
  if ("values" in given) {
    return given.values.toSorted((a, b) => a - b).map((value) => ({ label: String(value), holds: (x) => x === value }));
  }
  const edge = (i: number): number => given.min * (given.max / given.min) ** (i / PARTS);
  const short = (x: number): string => String(Number(x.toPrecision(2)));
  return Array.from({ length: PARTS }, (_, i) => ({
    label: `${short(edge(i))}..${short(edge(i + 1))}`,
    holds: (x: number) => (i === 0 || x > edge(i)) && (i === PARTS - 1 || x <= edge(i + 1)),
  }));
}
