import { beforeAndAfter, type RunHistory } from "@tslm/watch";

/** A run in a line; the fields of `runs --json`. */
export interface RunSummary {
  id: string;
  folder: string;
  started: string;
  /** done, stopped, interrupted, failed; running, or killed where there is no end. */
  status: RunHistory["status"];
  /** The diagnosis' word for it, where it came to one. */
  verdict: string | undefined;
  model: string;
  data: string;
  adapter: string;
  steps: number;
  total_steps: number;
  first_loss: number | undefined;
  /** Smoothed, of the last step. */
  loss: number | undefined;
  /** The lowest one. */
  validation_loss: number | undefined;
  /** Of the last step. */
  token_accuracy: number | undefined;
  tokens_per_second: number | undefined;
  seconds: number | undefined;
  options: Record<string, unknown>;
  samples: ReturnType<typeof beforeAndAfter>;
}

/** What is told of a run where it is one of several. */
export function summaryOf(run: RunHistory): RunSummary {
  const { start, steps, validations, end } = run;
  const last = steps.at(-1);
  return {
    id: run.id,
    folder: run.folder,
    started: start.time,
    status: run.status,
    verdict: end?.diagnosis?.verdict,
    model: start.model.name,
    data: start.data.file,
    adapter: start.adapter,
    steps: steps.length,
    total_steps: start.total_steps,
    first_loss: steps[0]?.loss,
    loss: last?.smoothed_loss,
    validation_loss: validations.length === 0 ? undefined : Math.min(...validations.map(({ loss }) => loss)),
    token_accuracy: last?.token_accuracy,
    tokens_per_second: last?.tokens_per_second,
    seconds: end?.seconds,
    options: start.options,
    samples: beforeAndAfter(run),
  };
}

/** The settings in which runs differ, by name, with each run's value. */
export function differingOptions(runs: readonly RunHistory[]): Map<string, unknown[]> {
  const names = new Set(runs.flatMap(({ start }) => ["model", "data", ...Object.keys(start.options)]));
  const differing = new Map<string, unknown[]>();
  for (const name of names) {
    const values = runs.map(({ start }) => {
      if (name === "model") return start.model.name;
      return name === "data" ? start.data.file : start.options[name];
    });
    if (new Set(values.map((value) => JSON.stringify(value))).size > 1) differing.set(name, values);
  }
  return differing;
}
