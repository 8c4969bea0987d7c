import { join } from "node:path";
import { REPORT_FILE, type RunHistory } from "@tslm/watch";
import { duration } from "../progress.ts";
import { columns, table } from "../table.ts";
import { printable, shellWord } from "../terminal.ts";
import { differingOptions, type RunSummary, summaryOf } from "./summary.ts";

/** All runs, a line each; the last column has the settings that are not the same in all. */
export function listTable(runs: readonly RunHistory[]): string {
  const differing = differingOptions(runs);
  const rows = runs.map((run, i) => {
    const summary = summaryOf(run);
    const settings = [...differing].map(([name, values]) => `${name} ${shown(values[i])}`);
    const { id, steps, total_steps } = summary;
    return [id, outcome(summary), `${steps}/${total_steps}`, losses(summary), ...metrics(summary), settings.join(", ")];
  });
  return columns([
    ["Run", "Outcome", "Steps", "Loss", "Validation", "Accuracy", "Time", "Settings that differ"],
    ...rows,
  ]);
}

/** One run: how it went, its settings, its samples, and where its files are. */
export function showRun(run: RunHistory, width?: number): string {
  const { start, end, folder } = run;
  const summary = summaryOf(run);
  const [validation, accuracy, time] = metrics(summary);
  const facts = [
    ["run", summary.id],
    ["begun", new Date(start.time).toLocaleString("sv")],
    ["outcome", outcome(summary)],
    ["model", start.model.name],
    ["data", `${start.data.file} (${start.data.examples ?? "?"} rows)`],
    ["adapter", start.adapter],
    ["steps", `${summary.steps} of ${summary.total_steps}`],
    ["loss", losses(summary)],
    ["validation loss", validation],
    ["token accuracy", accuracy],
    ["tokens a second", summary.tokens_per_second?.toFixed(1) ?? "–"],
    ["time", time],
    ["device", `${start.device.name} (${start.device.isa}, ${start.device.threads} threads)`],
    ...Object.entries(start.options)
      .filter(([, value]) => shown(value) !== "")
      .map(([name, value]) => [`--${name}`, shown(value)]),
  ];
  return [
    columns(facts),
    samplesTable([run], width),
    ...(end?.error === undefined ? [] : [`Error: ${printable(end.error)}`]),
    ...(end?.diagnosis ? [...end.diagnosis.reasons, ...end.diagnosis.advice.map((line) => `  - ${line}`)] : []),
    `Report: ${shellWord(join(folder, REPORT_FILE))}`,
    `TensorBoard: tensorboard --logdir ${shellWord(folder)}`,
  ].join("\n");
}

/** Several runs side by side: the settings that differ, what came out, and the answers. */
export function compareRuns(runs: readonly RunHistory[], width?: number): string {
  const summaries = runs.map(summaryOf);
  const differing = [...differingOptions(runs)].map(([name, values]) => [name, ...values.map(shown)]);
  const result = (name: string, of: (summary: RunSummary) => string) => [name, ...summaries.map(of)];
  const rows = [
    ...differing,
    result("outcome", outcome),
    result("steps", ({ steps, total_steps }) => `${steps}/${total_steps}`),
    result("loss", losses),
    result("validation loss", (summary) => metrics(summary)[0]),
    result("token accuracy", (summary) => metrics(summary)[1]),
    result("tokens a second", ({ tokens_per_second }) => tokens_per_second?.toFixed(1) ?? "–"),
    result("time", (summary) => metrics(summary)[2]),
  ];
  return [columns([["", ...summaries.map(({ id }) => id)], ...rows]), samplesTable(runs, width)].join("\n");
}

/** The sample questions: before, and after each run. */
function samplesTable(runs: readonly RunHistory[], width?: number): string {
  const all = runs.map((run) => summaryOf(run).samples);
  const questions = [...new Set(all.flat().map(({ question }) => question))];
  const head = ["Question", "Before", ...runs.map(({ id }) => (runs.length === 1 ? "After" : `After ${id}`))];
  const rows = questions.map((question) => {
    const found = all.map((samples) => samples.find((sample) => sample.question === question));
    const before = found.find((sample) => sample?.before !== undefined)?.before;
    return [question, before ?? "–", ...found.map((sample) => sample?.after ?? "–")];
  });
  return rows.length === 0 ? "No sample questions." : table(head, rows, width);
}

function outcome({ status, verdict }: RunSummary): string {
  if (verdict === undefined) return status;
  return status === "done" ? verdict : `${verdict} (${status})`;
}

/** First loss, and the last one smoothed. */
function losses({ first_loss, loss }: RunSummary): string {
  return first_loss === undefined || loss === undefined ? "–" : `${first_loss.toFixed(3)} → ${loss.toFixed(3)}`;
}

/** Validation loss, token accuracy and time. */
function metrics({ validation_loss, token_accuracy, seconds }: RunSummary): [string, string, string] {
  return [
    validation_loss?.toFixed(3) ?? "–",
    token_accuracy === undefined ? "–" : `${Math.round(100 * token_accuracy)}%`,
    seconds === undefined ? "–" : duration(seconds),
  ];
}

/** A setting's value. */
function shown(value: unknown): string {
  if (value === undefined) return "–";
  if (Array.isArray(value)) return value.map(shown).join(",");
  return typeof value === "string" ? value : JSON.stringify(value);
}
