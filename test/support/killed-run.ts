import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { type Ended, start } from "./process.ts";

/** What kills of a run are to be told. */
export interface Kills {
  /** Processes that were killed while they worked. */
  kills: number;
  /** Of those, killed while a checkpoint or the adapter was being written or put in its place. */
  inSaves: number;
  /** Runs that reached their end. */
  runs: number;
}

/**
 * Where a process of a run is killed: `at` milliseconds after its model is loaded, or as soon as it is seen writing into a
 * checkpoint or into the adapter, plus `at`.
 */
export interface KillTime {
  readonly after: "loading" | "save";
  readonly at: number;
}

/** Checkpoints that are in their place. */
export async function checkpointsIn(out: string): Promise<string[]> {
  const names = await readdir(join(out, "checkpoints")).catch(() => []);
  return names.filter((name) => name.startsWith("step-"));
}

/**
 * Trains into `out` with processes that are killed by SIGKILL, each going on from what the one before left, until one of
 * them reaches the end or `next` gives no more times: that one is let go.
 *
 * @param cwd where data and models are; `args` besides --out
 * @throws Error when a process fails by itself
 */
export async function trainThroughKills(
  out: string,
  args: readonly string[],
  cwd: string,
  next: () => KillTime | undefined,
  count: Kills,
): Promise<Ended> {
  for (;;) {
    // Processes that were killed left half-written folders; only new ones tell of a save.
    const before = await halfWritten(out);
    const isSaving = async () => !(await halfWritten(out)).isSubsetOf(before);
    const isBegun = (await checkpointsIn(out)).length > 0;
    const time = next();
    const running = start("train", isBegun ? ["--resume", "--out", out, "--json"] : [...args, "--out", out, "--json"], {
      cwd,
    });
    if (time === undefined) return finished(await running.ended(), count);
    let isOver = false;
    const over = running.process.exited.then(() => {
      isOver = true;
    });
    if (time.after === "loading") await Promise.race([running.printed("trainable params").catch(() => {}), over]);
    else {
      while (!isOver && !(await isSaving())) await Bun.sleep(0);
    }
    await Promise.race([Bun.sleep(time.at), over]);
    running.process.kill("SIGKILL");
    const ended = await running.ended();
    if (ended.status !== 128 && ended.status !== 137) return finished(ended, count);
    count.kills++;
    if (await isSaving()) count.inSaves++;
  }
}

/** What stands half-written in the adapter's folder and among its checkpoints. */
async function halfWritten(out: string): Promise<Set<string>> {
  const names = await Promise.all([out, join(out, "checkpoints")].map((folder) => readdir(folder).catch(() => [])));
  return new Set(names.flat().filter((name) => /^\.(saving|saved|removed)/.test(name)));
}

function finished(ended: Ended, count: Kills): Ended {
  if (ended.status !== 0) throw new Error(`a run that went on failed (status ${ended.status}): ${ended.stderr}`);
  count.runs++;
  return ended;
}

/** What of a finished run must not depend on kills: the adapter's bytes, the last state, and the record without times and memory. */
export async function lastingResult(out: string): Promise<Record<string, unknown>> {
  const hex = async (path: string) => Bun.SHA256.hash(await readFile(path), "hex");
  const {
    finished: _,
    estimate: _said,
    measured: _measured,
    steps,
    ...record
  } = JSON.parse(await readFile(join(out, "training.json"), "utf8"));
  const checkpoints = (await checkpointsIn(out)).sort((a, b) => Number(a.slice(5)) - Number(b.slice(5)));
  return {
    adapter: await hex(join(out, "adapter_model.safetensors")),
    config: await readFile(join(out, "adapter_config.json"), "utf8"),
    record,
    steps: steps.map(({ seconds: _, ...step }: { seconds: number }) => step),
    last: checkpoints.at(-1),
    state: await Promise.all(
      checkpoints.slice(-1).map((name) => hex(join(out, "checkpoints", name, "training_state.safetensors"))),
    ),
  };
}
