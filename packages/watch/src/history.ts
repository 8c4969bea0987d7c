import { readdir, readFile } from "node:fs/promises";
import { hostname } from "node:os";
import { basename, join, resolve } from "node:path";
import { z } from "zod";
import {
  type Answer,
  type EndEvent,
  type EventOf,
  type RunEvent,
  type RunStatus,
  runEventSchema,
  type StartEvent,
  type StepEvent,
} from "./events.ts";
import { LOG_FILE } from "./jsonl.ts";

/** A log that cannot be read, or a run that is not there; a sentence for people. */
export class RunError extends Error {
  override readonly name = "RunError";
}

/** What a run's log tells. */
export interface RunHistory {
  readonly id: string;
  readonly folder: string;
  readonly start: StartEvent;
  /** What was done twice, because the run was resumed, is here once. */
  readonly steps: readonly StepEvent[];
  readonly validations: readonly EventOf<"validation">[];
  readonly samples: readonly EventOf<"samples">[];
  readonly checkpoints: readonly EventOf<"checkpoint">[];
  /** Undefined where the run was killed, or goes on. */
  readonly end: EndEvent | undefined;
  readonly status: RunStatus | "running" | "killed";
}

/** A question and what was answered before training and last. */
export interface BeforeAfter {
  readonly question: string;
  readonly expected?: string;
  readonly before?: string;
  readonly after?: string;
}

/** The events as they stand after all of them: of what was done again after a resume, only the second time. */
export function settledEvents(events: readonly RunEvent[]): RunEvent[] {
  const kept: RunEvent[] = [];
  for (const event of events) {
    if (event.event === "resume") {
      const done = (before: RunEvent): boolean =>
        before.event === "end" || ("step" in before && before.event !== "resume" && before.step > event.step);
      kept.splice(0, kept.length, ...kept.filter((before) => !done(before)));
    }
    kept.push(event);
  }
  return kept;
}

/** A run's history from its events. @throws RunError when they do not begin with a start */
export function historyOf(folder: string, events: readonly RunEvent[]): RunHistory {
  const settled = settledEvents(events);
  const of = <Name extends RunEvent["event"]>(name: Name) =>
    settled.filter((event): event is EventOf<Name> => event.event === name);
  const [start] = of("start");
  if (start === undefined) throw new RunError(`${join(folder, LOG_FILE)}: does not begin with the start of a run`);
  const end = of("end").at(-1);
  const { pid, host } = of("resume").at(-1) ?? start;
  return {
    id: basename(resolve(folder)),
    folder,
    start,
    steps: of("step"),
    validations: of("validation"),
    samples: of("samples"),
    checkpoints: of("checkpoint"),
    end,
    status: end?.status ?? (isAlive(pid, host) ? "running" : "killed"),
  };
}

/** Of another computer's process nothing is known; it may go on. */
function isAlive(pid: number, host: string): boolean {
  if (host !== hostname()) return true;
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}

/** The sample questions, with the first and the last answer. */
export function beforeAndAfter({ samples }: Pick<RunHistory, "samples">): BeforeAfter[] {
  const first = samples.find(({ step }) => step === 0)?.answers ?? [];
  const last = samples.findLast(({ step }) => step > 0)?.answers ?? [];
  const answerOf = (list: readonly Answer[], question: string) => list.find((one) => one.question === question)?.answer;
  return (first.length > 0 ? first : last).map(({ question, expected }) => ({
    question,
    expected,
    before: answerOf(first, question),
    after: answerOf(last, question),
  }));
}

/**
 * Reads a run's folder. A last line that a kill cut off is left out; events that a newer program wrote are passed over.
 *
 * @throws RunError naming file and line
 */
export async function readRun(folder: string): Promise<RunHistory> {
  return historyOf(folder, await readEvents(folder));
}

/** All events of a run's log. @throws RunError naming file and line */
export async function readEvents(folder: string): Promise<RunEvent[]> {
  const path = join(folder, LOG_FILE);
  const text = await readFile(path, "utf8").catch((error: NodeJS.ErrnoException) => {
    throw new RunError(`${path}: cannot be read (${error.code}); name a run's folder`);
  });
  const lines = text.split("\n");
  // Behind the last line break is nothing, or what a kill left of a line.
  lines.pop();
  return lines.flatMap((line, i) => readEvent(line, `${path}, line ${i + 1}`));
}

const KNOWN = new Set<string>(runEventSchema.options.map((option) => option.shape.event.value));
const named = z.looseObject({ event: z.string() });

function readEvent(line: string, place: string): RunEvent[] {
  let json: unknown;
  try {
    json = JSON.parse(line);
  } catch {
    throw new RunError(`${place}: is not JSON; the file was changed or is damaged`);
  }
  const name = named.safeParse(json).data?.event;
  if (name !== undefined && !KNOWN.has(name)) return [];
  const { data, error } = runEventSchema.safeParse(json);
  if (data) return [data];
  const [{ path, message }] = error.issues;
  throw new RunError(`${place}: ${path.join(".")}: ${message}`);
}

/** The runs of a folder, oldest first, and what could not be read of it. */
export interface RunList {
  readonly runs: RunHistory[];
  readonly problems: string[];
}

/** Reads all runs below a folder. A folder that is not there has none. */
export async function listRuns(folder: string): Promise<RunList> {
  const names = await readdir(folder).catch(() => []);
  const list: RunList = { runs: [], problems: [] };
  for (const name of names.sort()) {
    if (!(await Bun.file(join(folder, name, LOG_FILE)).exists())) continue;
    try {
      list.runs.push(await readRun(join(folder, name)));
    } catch (error) {
      if (!(error instanceof RunError)) throw error;
      list.problems.push(error.message);
    }
  }
  list.runs.sort((a, b) => a.start.time.localeCompare(b.start.time));
  return list;
}

/** The run that a name, or a beginning that only one name has, means. @throws RunError when there is none, or several */
export function findRun(runs: readonly RunHistory[], name: string): RunHistory {
  if (name === "last" && runs.length > 0) return runs[runs.length - 1];
  const exact = runs.find(({ id }) => id === name);
  if (exact) return exact;
  const found = runs.filter(({ id }) => id.startsWith(name));
  if (found.length === 1) return found[0];
  const what = found.length === 0 ? "no run is" : `${found.length} runs are`;
  const some = (found.length === 0 ? runs : found).slice(-3).map(({ id }) => id);
  throw new RunError(`${what} called ${name}; there are ${some.length > 0 ? `${some.join(", ")}, and last` : "none"}`);
}
