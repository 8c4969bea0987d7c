import { brokenAnswer } from "./collapse.ts";
import { isAnswered, keyFacts, says } from "./facts.ts";

/** A question answered before and after training. */
export interface SampleAnswer {
  prompt: string;
  /** The answer of the training data, where there is one. */
  expected?: string;
  before: string;
  after: string;
}

export interface DiagnosisInput {
  /** Loss of every step, in order. */
  losses: readonly number[];
  samples: readonly SampleAnswer[];
  /** What was run, by the names of the command line, so that the advice can start from it. */
  settings?: { recipe?: string; lr?: number; epochs?: number };
}

/**
 * `learned`: the samples are answered as the data says. `underfitting`: the key fact is still missing, or the loss
 * still high. `collapse`: training broke the model: repetition, meaningless output, or a loss that exploded.
 */
export type Verdict = "learned" | "underfitting" | "collapse";

/** What went right or wrong, in whole sentences. */
export interface Diagnosis {
  verdict: Verdict;
  reasons: string[];
  /** What to change, most useful first; empty where nothing needs to. */
  advice: string[];
}

/** A mean loss per token above this is far from having learned a text. */
const HIGH_LOSS = 1;
/** Rate and epochs of the tuned recipe: what advice leads up to. */
const TUNED_LR = 1e-3;
const TUNED_EPOCHS = 10;

/** Names by itself how a run ended, and what to change. Collapse is told before underfitting. */
export function diagnose(input: DiagnosisInput): Diagnosis {
  const broken = [...explodingLoss(input.losses), ...brokenSamples(input)];
  if (broken.length > 0) return { verdict: "collapse", reasons: broken, advice: againstCollapse(input) };

  const expectations = input.samples.flatMap((sample) => (sample.expected ? [judge(sample, sample.expected)] : []));
  const wrong = expectations.filter((e) => e.problem !== undefined);
  const high = highLoss(input.losses);
  if (wrong.length > 0 || (expectations.length === 0 && high)) {
    return {
      verdict: "underfitting",
      reasons: [...wrong.map((e) => e.problem!), ...(high ? [high] : [])],
      advice: againstUnderfitting(
        input,
        wrong.flatMap((e) => e.missing),
      ),
    };
  }
  return {
    verdict: "learned",
    reasons: [...expectations.map((e) => e.success), ...(expectations.length === 0 ? [fallenLoss(input.losses)] : [])],
    advice: [],
  };
}

/** First loss, and the mean over the last fifth of the steps. */
function ends(losses: readonly number[]): { first: number; last: number } {
  const tail = losses.slice(-Math.max(1, Math.ceil(losses.length / 5)));
  return { first: losses[0], last: tail.reduce((sum, loss) => sum + loss, 0) / tail.length };
}

function explodingLoss(losses: readonly number[]): string[] {
  if (losses.length === 0) return [];
  const bad = losses.findIndex((loss) => !Number.isFinite(loss));
  if (bad >= 0) return [`The loss of step ${bad + 1} is no number any more.`];
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
  return samples.flatMap(({ prompt, expected = "", before, after }) => {
    if (expected !== "" && after.trim() === expected.trim()) return [];
    const broken = brokenAnswer(after, [prompt, expected]);
    if (!broken) return [];
    const already = brokenAnswer(before, [prompt, expected])?.kind === broken.kind;
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
  const numbers = keyFacts(after, prompt).filter((fact) => /\d/.test(fact) && !says(expected, fact));
  const instead = numbers.slice(0, 3).map((fact) => original(after, fact));
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

function againstUnderfitting({ settings = {} }: DiagnosisInput, missing: readonly string[]): string[] {
  const { recipe, lr, epochs } = settings;
  const advice: string[] = [];
  if (recipe !== "tuned") {
    advice.push("Train with `--recipe tuned`: key rows repeated, rank 4, more epochs, a higher rate.");
  }
  for (const fact of missing.slice(0, 2)) {
    advice.push(`Show the row more often: \`--repeat '${fact}=${recipe === "tuned" ? 8 : 4}'\`.`);
  }
  if (lr !== undefined && lr < TUNED_LR) advice.push(`Raise the rate: \`--lr ${TUNED_LR}\` (it was ${lr}).`);
  const more = Math.max(TUNED_EPOCHS, 2 * (epochs ?? 0));
  advice.push(`Train longer: \`--epochs ${more}\`${epochs === undefined ? "" : ` (it was ${epochs})`}.`);
  return advice;
}

function againstCollapse({ settings = {} }: DiagnosisInput): string[] {
  const { lr, epochs } = settings;
  const advice: string[] = [];
  if (lr === undefined) advice.push("Lower the rate: `--lr 2e-4`.");
  else
    advice.push(
      `Lower the rate: \`--lr ${Number((lr > TUNED_LR ? Math.min(TUNED_LR, lr / 10) : lr / 4).toPrecision(2))}\` (it was ${lr}).`,
    );
  if (epochs !== undefined && epochs > 3)
    advice.push(`Train shorter: \`--epochs ${Math.ceil(epochs / 2)}\` (it was ${epochs}).`);
  advice.push("Repeat rows less, and keep `--clip 1` and a little warm-up: `--warmup 0.1`.");
  return advice;
}
