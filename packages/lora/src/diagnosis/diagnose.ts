import { DivergenceError, UnchangedError } from "../errors.ts";
import { brokenAnswer, guessedAnswer } from "./collapse.ts";
import {
  againstCollapse,
  againstMemorising,
  againstNaN,
  againstNoChange,
  againstRunningOn,
  againstUnderfitting,
  type Changes,
  type Cure,
  type RunSettingsToJudge,
} from "./cures.ts";
import { isAnswered, keyFacts, says, wrongNumbers } from "./facts.ts";
import { hopelessness } from "./live.ts";

/** A question answered before and after training. */
export interface SampleAnswer {
  prompt: string;
  /** The expected answer of the training data, where there is one. */
  expected?: string;
  before: string;
  after: string;
  /** Did the answer come to its end token? False: it was cut off. */
  ended?: boolean;
  /** Mean entropy of the answers' tokens, in nats: how unsure the model was of its words. */
  entropy?: { before: number; after: number };
}

export interface DiagnosisInput {
  /** Loss of every step, in order. */
  losses: readonly number[];
  /** The step whose weights the adapter has: the last one unless given. */
  step?: number;
  samples: readonly SampleAnswer[];
  /** What was run. */
  settings?: RunSettingsToJudge;
  /** Losses on held-out data, with the epoch after which each was found. */
  validation?: readonly { epoch: number; loss: number }[];
  /** Sequences that were cut at the greatest length, and tokens of the longest. */
  cut?: { count: number; longest: number };
}

/**
 * - `learned`: the samples are answered as the data says.
 * - `underfitting`: the key fact is still missing, or the loss still high.
 * - `memorised`: the rows are known by heart, and held-out ones are answered worse the longer it trained.
 * - `never-stops`: the answers are right and go on beyond their end.
 * - `collapse`: training broke the model: repetition, or meaningless output.
 * - `divergence`: the loss rose.
 * - `unchanged`: the adapter is what it was before. `nan`: a number that is none.
 */
export const VERDICTS = [
  "learned",
  "memorised",
  "never-stops",
  "underfitting",
  "collapse",
  "divergence",
  "unchanged",
  "nan",
] as const;
export type Verdict = (typeof VERDICTS)[number];

/** Verdicts on an adapter with which the model is worse than without. */
const BROKEN: ReadonlySet<Verdict> = new Set(["collapse", "divergence"]);

/** Did training break the model, so that its adapter must not take the place of a good one? */
export function isBroken({ verdict }: Pick<Diagnosis, "verdict">): boolean {
  return BROKEN.has(verdict);
}

/** What went right or wrong, in whole sentences. */
export interface Diagnosis {
  verdict: Verdict;
  reasons: string[];
  /** What to change, most useful first; empty where nothing needs to. */
  advice: string[];
  /** The same for a program: the settings to run with next. */
  changes: Changes;
}

/** A mean loss per token above this is far from having learned a text. */
const HIGH_LOSS = 1;

function verdictOf(verdict: Verdict, reasons: string[], cures: readonly Cure[] = []): Diagnosis {
  const changes: Changes = Object.assign({}, ...cures.map((cure) => cure.changes));
  return { verdict, reasons, advice: cures.map(({ advice }) => advice), changes };
}

/** Names by itself how a run ended, and what to change. What broke the model is told before what it has not learned. */
export function diagnose(input: DiagnosisInput): Diagnosis {
  const { losses, step, samples, settings = {}, cut } = input;
  const noNumber = losses.findIndex((loss) => !Number.isFinite(loss));
  if (noNumber >= 0) {
    return verdictOf("nan", [`The loss of step ${noNumber + 1} is no number any more.`], againstNaN(settings));
  }
  const broken = brokenSamples(input);
  const exploded = explodingLoss(losses.slice(0, step));
  if (broken.length > 0) return verdictOf("collapse", [...exploded, ...broken], againstCollapse(settings));
  if (exploded.length > 0) return verdictOf("divergence", exploded, againstCollapse(settings));

  const expectations = samples.flatMap((sample) => (sample.expected ? [judge(sample, sample.expected)] : []));
  const wrong = expectations.filter((e) => e.problem !== undefined);
  const high = highLoss(losses);
  if (wrong.length > 0 || (expectations.length === 0 && high)) {
    const missing = wrong.flatMap((e) => e.missing);
    const reasons = [...wrong.map((e) => e.problem!), ...(high ? [high] : [])];
    return verdictOf("underfitting", reasons, againstUnderfitting(settings, missing));
  }
  const endless = samples.filter(({ expected, after, ended }) => {
    return ended === false && expected !== undefined && after.length > 1.5 * expected.length;
  });
  if (endless.length > 0) {
    const reasons = endless.map(
      ({ prompt, after }) =>
        `The answer to ${quote(prompt)} does not stop: it was cut off at …${quote([...after].slice(-20).join(""))}.`,
    );
    return verdictOf("never-stops", reasons, againstRunningOn(settings, cut));
  }
  const memorised = memorisedOnly(input);
  if (memorised) return verdictOf("memorised", [memorised.reason], againstMemorising(settings, memorised.epoch));
  return verdictOf("learned", [
    ...expectations.map((e) => e.success),
    ...(expectations.length === 0 ? [fallenLoss(losses)] : []),
  ]);
}

/** What an error of training means, where it is of the kind that other settings cure. */
export function diagnoseError(error: unknown, settings: RunSettingsToJudge = {}): Diagnosis | undefined {
  if (error instanceof DivergenceError) return verdictOf("nan", [error.message], againstNaN(settings));
  if (error instanceof UnchangedError) return verdictOf("unchanged", [error.message], againstNoChange(settings));
  return undefined;
}

/** Is a run that goes on to be given up? Its diagnosis, or undefined while there is hope. */
export function diagnoseLive(losses: readonly number[], settings: RunSettingsToJudge = {}): Diagnosis | undefined {
  const reason = hopelessness(losses);
  return reason === undefined ? undefined : verdictOf("divergence", [reason], againstCollapse(settings));
}

/** Known by heart: the rows' own loss is low, and that of held-out ones was lowest at first and has risen since. */
function memorisedOnly({ losses, validation = [] }: DiagnosisInput): { reason: string; epoch: number } | undefined {
  if (validation.length < 2 || losses.length === 0) return undefined;
  const best = validation.reduce((a, b) => (b.loss < a.loss ? b : a));
  const [first, last] = [validation[0], validation[validation.length - 1]];
  const { last: own } = ends(losses);
  if (best.loss < 0.9 * first.loss || last.loss < 1.1 * best.loss || own > 0.5 * last.loss) return undefined;
  const numbers = `from ${best.loss.toFixed(2)} to ${last.loss.toFixed(2)} a token, while that of the rows fell to ${own.toFixed(2)}`;
  return { reason: `The rows are known by heart only: the loss on held-out data rose ${numbers}.`, epoch: best.epoch };
}

/** First loss, and the mean over the last fifth of the steps. */
function ends(losses: readonly number[]): { first: number; last: number } {
  const tail = losses.slice(-Math.max(1, Math.ceil(losses.length / 5)));
  return { first: losses[0], last: tail.reduce((sum, loss) => sum + loss, 0) / tail.length };
}

function explodingLoss(losses: readonly number[]): string[] {
  if (losses.length === 0) return [];
  const { first, last } = ends(losses);
  return last > 1.2 * first + 0.2 ? [`The loss rose from ${first.toFixed(2)} to ${last.toFixed(2)}.`] : [];
}

/** Is the model still about what it was: the loss fell little and never jumped? Then its faults are the base model's. */
function barelyMoved(losses: readonly number[]): boolean {
  if (losses.length === 0) return false;
  const { first, last } = ends(losses);
  return last > 0.7 * first && Math.max(...losses) < 1.3 * first + 0.2;
}

function brokenSamples({ losses, samples }: DiagnosisInput): string[] {
  return samples.flatMap(({ prompt, expected = "", before, after, entropy }) => {
    if (expected !== "" && after.trim() === expected.trim()) return [];
    const known = [prompt, expected];
    const broken = brokenAnswer(after, known) ?? guessedAnswer(entropy);
    if (!broken) return [];
    // Who talked nonsense before was not broken by training; who only repeated himself may have been.
    const earlier = brokenAnswer(before, known)?.kind;
    const already = earlier === "meaningless" || earlier === broken.kind;
    if (already || (broken.kind === "repetition" && barelyMoved(losses))) return [];
    return [`The answer to ${quote(prompt)} ${broken.how}: ${quote(after)}.`];
  });
}

/** A sentence's worth of text in quotes. */
function quote(text: string): string {
  const characters = [...text];
  return `"${characters.slice(0, 40).join("")}${characters.length > 40 ? "…" : ""}"`;
}

interface Judgement {
  problem: string | undefined;
  success: string;
  /** Key facts that the answer lacks. */
  missing: string[];
}

function judge({ prompt, before, after }: SampleAnswer, expected: string): Judgement {
  const facts = keyFacts(expected, prompt);
  const missing = facts.filter((fact) => !says(after, fact));
  const show = (list: readonly string[]): string => list.map((fact) => original(expected, fact)).join(", ");
  const success = `${quote(prompt)} is answered with ${facts.length > 0 ? show(facts) : "what the data says"}.`;
  if (isAnswered(after, expected, prompt)) {
    return { problem: undefined, success, missing };
  }
  const instead = wrongNumbers(after, expected, prompt)
    .slice(0, 3)
    .map((fact) => original(after, fact));
  const answer = facts.length > 0 && instead.length > 0 ? `says ${instead.join(", ")}` : `is ${quote(after)}`;
  const like = after.trim() === before.trim() ? ", word for word as the base model did" : "";
  const wanted = facts.length > 0 ? show(missing) : quote(expected);
  return {
    problem: `${quote(prompt)} should be answered with ${wanted}; the answer ${answer}${like}.`,
    success,
    missing: missing.map((fact) => original(expected, fact)),
  };
}

/** A fact as the text spells it. */
function original(text: string, fact: string): string {
  const letters = [...fact].map((c) => c.replace(/[.*+?^${}()|[\]\\/-]/g, "\\$&")).join("\\s*");
  return new RegExp(letters, "i").exec(text.normalize("NFKC"))?.[0] ?? fact;
}

function highLoss(losses: readonly number[]): string | undefined {
  if (losses.length === 0) return undefined;
  const { first, last } = ends(losses);
  if (last <= HIGH_LOSS || last < 0.4 * first) return undefined;
  return `The loss is still high: it fell only from ${first.toFixed(2)} to ${last.toFixed(2)} a token.`;
}

function fallenLoss(losses: readonly number[]): string {
  if (losses.length === 0) return "No loss and no sample speaks against it.";
  const { first, last } = ends(losses);
  return `The loss fell from ${first.toFixed(2)} to ${last.toFixed(2)} a token.`;
}
