/** Settings to change, by their names on the command line and in a run file. */
export interface Changes {
  recipe?: "tuned";
  lr?: number;
  epochs?: number;
  warmup?: number;
  "max-length"?: number;
  "weight-decay"?: number;
  /** `TEXT=N`, beside the repetitions there are. */
  repeat?: string[];
}

/** What was run, by the names of the command line, so that a cure can start from it. */
export interface RunSettingsToJudge {
  recipe?: string;
  lr?: number;
  epochs?: number;
  maxLength?: number;
}

/** A sentence of advice, and what of it a program can do. */
export interface Cure {
  advice: string;
  changes: Changes;
}

/** Rate and epochs of the tuned recipe: what cures lead up to. */
const TUNED_LR = 1e-3;
const TUNED_EPOCHS = 10;

const was = (value: number | undefined): string => (value === undefined ? "" : ` (it was ${value})`);
const rounded = (rate: number): number => Number(rate.toPrecision(2));

/** @param missing facts that the answers lack, as the data spells them */
export function againstUnderfitting({ recipe, lr, epochs }: RunSettingsToJudge, missing: readonly string[]): Cure[] {
  const cures: Cure[] = [];
  const isTuned = recipe === "tuned";
  if (!isTuned) {
    cures.push({
      advice: "Train with `--recipe tuned`: key rows repeated, rank 4, more epochs, a higher rate.",
      changes: { recipe: "tuned" },
    });
  }
  const times = isTuned ? 8 : 4;
  const facts = missing.slice(0, 2);
  for (const [i, fact] of facts.entries()) {
    const repeat = facts.slice(0, i + 1).map((text) => `${text}=${times}`);
    cures.push({ advice: `Show the row more often: \`--repeat '${fact}=${times}'\`.`, changes: { repeat } });
  }
  if (lr !== undefined && lr < TUNED_LR) {
    cures.push({ advice: `Raise the rate: \`--lr ${TUNED_LR}\`${was(lr)}.`, changes: { lr: TUNED_LR } });
  }
  const more = Math.max(TUNED_EPOCHS, 2 * (epochs ?? 0));
  cures.push({ advice: `Train longer: \`--epochs ${more}\`${was(epochs)}.`, changes: { epochs: more } });
  return cures;
}

function lowerRate({ lr }: RunSettingsToJudge): Cure {
  const lower = lr === undefined ? 2e-4 : rounded(lr > TUNED_LR ? Math.min(TUNED_LR, lr / 10) : lr / 4);
  return { advice: `Lower the rate: \`--lr ${lr === undefined ? "2e-4" : lower}\`${was(lr)}.`, changes: { lr: lower } };
}

/** Training broke the model, or its loss rose. */
export function againstCollapse(settings: RunSettingsToJudge): Cure[] {
  const { epochs } = settings;
  const cures = [lowerRate(settings)];
  if (epochs !== undefined && epochs > 3) {
    const half = Math.ceil(epochs / 2);
    cures.push({ advice: `Train shorter: \`--epochs ${half}\`${was(epochs)}.`, changes: { epochs: half } });
  }
  cures.push({
    advice: "Repeat rows less, and keep `--clip 1` and a little warm-up: `--warmup 0.1`.",
    changes: { warmup: 0.1 },
  });
  return cures;
}

export function againstNaN(settings: RunSettingsToJudge): Cure[] {
  const { advice, changes } = lowerRate(settings);
  return [
    { advice, changes },
    { advice: "Keep `--clip 1` and a little warm-up: `--warmup 0.1`.", changes: { warmup: 0.1 } },
    { advice: "If that is not it, the base model's weights are broken: download them again.", changes: {} },
  ];
}

export function againstNoChange({ lr }: RunSettingsToJudge): Cure[] {
  const higher = lr === undefined ? TUNED_LR : Math.max(TUNED_LR, rounded(10 * lr));
  return [
    { advice: `Raise the rate: \`--lr ${higher}\`${was(lr)}.`, changes: { lr: higher } },
    { advice: "Look at what carries loss: `bun run data --check FILE`.", changes: {} },
  ];
}

/** @param cut sequences that lost their end at the greatest length, and how long the longest was */
export function againstRunningOn(
  { epochs, maxLength }: RunSettingsToJudge,
  cut: { count: number; longest: number } | undefined,
): Cure[] {
  if (cut && cut.count > 0) {
    const advice = `${cut.count} rows lost their end, and the end token with it: \`--max-length ${cut.longest}\`${was(maxLength)}.`;
    return [{ advice, changes: { "max-length": cut.longest } }];
  }
  const more = Math.max(TUNED_EPOCHS, 2 * (epochs ?? 0));
  return [
    {
      advice: `Train longer, for the end to be learned: \`--epochs ${more}\`${was(epochs)}.`,
      changes: { epochs: more },
    },
  ];
}

/** @param epoch the one after which held-out data was answered best */
export function againstMemorising({ lr, epochs }: RunSettingsToJudge, epoch: number): Cure[] {
  const cures: Cure[] = [
    { advice: "Bring more rows, or the same said in other words: nothing helps as much.", changes: {} },
  ];
  if (epochs === undefined || epoch < epochs) {
    cures.push({ advice: `Train shorter: \`--epochs ${epoch}\`${was(epochs)}.`, changes: { epochs: epoch } });
  }
  if (lr !== undefined) {
    cures.push({ advice: `Lower the rate: \`--lr ${rounded(lr / 2)}\`${was(lr)}.`, changes: { lr: rounded(lr / 2) } });
  }
  cures.push({ advice: "Hold the adapter back: `--weight-decay 0.1`.", changes: { "weight-decay": 0.1 } });
  return cures;
}
