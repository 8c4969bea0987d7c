/**
 * Looks for inputs that break a parser, led by what they reach in its code (Jazzer.js, libFuzzer's way). See README.md.
 *
 *   bun run fuzz TARGET|all [--seconds N | --runs N] [--seed N] [--input FILE]
 */
import { mkdir, readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { nodeCommand } from "./c-library.ts";
import type { FuzzTarget } from "./target.ts";

const HERE = import.meta.dir;
/** What a fuzzer found on the way and what broke a parser; not in git. */
const WORK = join(HERE, "found");
/** The longest that one input may take, in seconds: beyond it is a fault. */
const SLOWEST = 10;
/** The most memory of the process, in MB. */
const MEMORY = 2048;

/** Names of all targets. */
export async function targetNames(): Promise<string[]> {
  return (await readdir(join(HERE, "targets"))).map((file) => file.replace(/\.ts$/, "")).sort();
}

/** A target by its name. */
export async function loadTarget(name: string): Promise<FuzzTarget> {
  return (await import(join(HERE, "targets", `${name}.ts`))).target;
}

/** Bytes of an input that is a text. */
export const bytesOf = (seed: string | Uint8Array): Uint8Array =>
  typeof seed === "string" ? new TextEncoder().encode(seed) : seed;

export interface FuzzOptions {
  /** How long; or `runs`. */
  readonly seconds?: number;
  /** How many inputs. */
  readonly runs?: number;
  /** The same seed, target and corpus try the same inputs. Default 1. */
  readonly seed?: number;
  /** Only this file. */
  readonly input?: string;
  /** Where inputs and faults are kept. Default: beside this file. */
  readonly work?: string;
  /** The code under test, changed before it is bundled; for tests of the fuzzing itself. */
  readonly change?: { readonly file: RegExp; readonly by: (code: string) => string };
}

/** What came of it. */
export interface Fuzzed {
  /** Inputs that were tried. */
  readonly runs: number;
  /** Places of the code that were reached: by the seeds, and at the end. */
  readonly coverage: readonly [seeds: number, end: number];
  /** Files of inputs that broke the parser. */
  readonly faults: readonly string[];
  /** What the fuzzer printed. */
  readonly log: string;
}

/** Fuzzes one target until the time is over, the runs are done, or it breaks. @throws where Jazzer.js cannot run here */
export async function fuzzTarget(name: string, options: FuzzOptions = {}): Promise<Fuzzed> {
  const node = nodeCommand();
  if ("missing" in node) throw new Error(node.missing);
  const { seconds, runs, seed = 1, input, work = WORK } = options;
  const target = await loadTarget(name);
  const [corpus, faults, seeds] = ["corpus", "faults", "seeds"].map((what) => join(work, what, name));
  await rm(seeds, { recursive: true, force: true });
  for (const folder of [corpus, faults, seeds]) await mkdir(folder, { recursive: true });
  let number = 0;
  for (const known of await target.seeds()) await Bun.write(join(seeds, `seed-${number++}`), bytesOf(known));
  const dictionary = join(seeds, "../", `${name}.dict`);
  await Bun.write(dictionary, (target.words ?? []).map((word) => `"${escaped(word)}"\n`).join(""));

  const bundle = await bundleOf(name, work, options.change);
  const isSync = target.fuzz.constructor.name !== "AsyncFunction";
  const before = new Set(await readdir(faults));
  const command = [
    ...node.command,
    join(HERE, "../../node_modules/@jazzer.js/core/dist/cli.js"),
    bundle,
    ...(input ? [input] : [corpus, seeds, join(HERE, "regressions", name)]),
    ...(isSync ? ["--sync"] : []),
    ...["--timeout", String(SLOWEST * 1000), "--disableBugDetectors", ".*", "--"],
    ...[`-dict=${dictionary}`, `-max_len=${target.maxLength ?? 2048}`, `-seed=${seed}`, `-artifact_prefix=${faults}/`],
    ...[`-rss_limit_mb=${MEMORY}`, `-timeout=${SLOWEST}`, "-print_final_stats=1", "-close_fd_mask=0"],
    ...(seconds === undefined ? [] : [`-max_total_time=${seconds}`]),
    ...(runs === undefined ? [] : [`-runs=${runs}`]),
  ].filter((part) => part !== join(HERE, "regressions", name) || existsFolder(part));
  // A process begins with the peak of memory of the one that made it, and the limit is held against the peak: a shell between
  // them begins small.
  const child = Bun.spawn(["sh", "-c", '"$@"; exit $?', "sh", ...command], {
    cwd: work,
    stdout: "pipe",
    stderr: "pipe",
  });
  const [out, err] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
  const status = await child.exited;
  const log = err + out;
  const found = (await readdir(faults)).filter((file) => !before.has(file)).map((file) => join(faults, file));
  if (status !== 0 && found.length === 0 && !input) throw new Error(`the fuzzer failed:\n${log.slice(-4000)}`);
  const numbers = (pattern: RegExp): number[] => [...log.matchAll(pattern)].map(([, value]) => Number(value));
  const covered = numbers(/\bcov: (\d+)/g);
  return {
    runs: numbers(/number_of_executed_units:\s*(\d+)/g).at(-1) ?? 0,
    coverage: [numbers(/INITED\s+cov: (\d+)/g)[0] ?? 0, covered.at(-1) ?? 0],
    faults: found,
    log,
  };
}

const existsFolder = (path: string): boolean => Bun.spawnSync(["test", "-d", path]).success;

/** As libFuzzer's dictionaries write it. */
function escaped(word: string): string {
  return [...bytesOf(word)]
    .map((byte) =>
      byte < 32 || byte > 126 || byte === 34 || byte === 92
        ? `\\x${byte.toString(16).padStart(2, "0").toUpperCase()}`
        : String.fromCharCode(byte),
    )
    .join("");
}

/** The target and all it needs in one file that Node runs and Jazzer.js can instrument. */
async function bundleOf(name: string, work: string, change: FuzzOptions["change"]): Promise<string> {
  const built = await Bun.build({
    entrypoints: [join(HERE, "targets", `${name}.ts`)],
    target: "node",
    format: "cjs",
    conditions: ["@tslm/source", "node"],
    footer: "module.exports.fuzz = (data) => module.exports.target.fuzz(data);",
    plugins: [
      {
        name: "for the fuzzer",
        setup(build) {
          // Conversations are kept by Bun's SQLite, which Node has not and no target needs.
          build.onResolve({ filter: /^bun:sqlite$/ }, () => ({ path: "sqlite", namespace: "none" }));
          build.onLoad({ filter: /.*/, namespace: "none" }, () => ({
            contents: "export class Database {}",
            loader: "js",
          }));
          if (change) {
            build.onLoad({ filter: change.file }, async ({ path }) => ({
              contents: change.by(await Bun.file(path).text()),
              loader: "ts",
            }));
          }
        },
      },
    ],
  });
  const path = join(work, "bundles", `${name}.cjs`);
  await Bun.write(path, await built.outputs[0].text());
  return path;
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      ...{ seconds: { type: "string" }, runs: { type: "string" }, seed: { type: "string" }, input: { type: "string" } },
      verbose: { type: "boolean" },
    },
  });
  const names = await targetNames();
  const wanted = positionals[0] === "all" ? names : positionals;
  const unknown = wanted.find((name) => !names.includes(name));
  if (wanted.length === 0 || unknown !== undefined) {
    console.error(
      `${unknown === undefined ? "Name a target" : `There is no target ${unknown}`}: all, ${names.join(", ")}`,
    );
    process.exit(2);
  }
  let faults = 0;
  for (const name of wanted) {
    const number = (value: string | undefined): number | undefined => (value === undefined ? undefined : Number(value));
    const [seconds, runs, seed] = [number(values.seconds), number(values.runs), number(values.seed)];
    const timed = seconds ?? (runs === undefined && values.input === undefined ? 60 : undefined);
    const result = await fuzzTarget(name, { seconds: timed, runs, seed, input: values.input });
    if (values.verbose || result.faults.length > 0 || values.input) console.log(result.log.slice(-6000));
    const [first, last] = result.coverage;
    console.log(
      `${name}: ${result.runs} inputs, coverage ${first} -> ${last}, faults: ${result.faults.join(", ") || "none"}`,
    );
    faults += result.faults.length;
  }
  process.exit(faults > 0 ? 1 : 0);
}

if (import.meta.main) await main();
