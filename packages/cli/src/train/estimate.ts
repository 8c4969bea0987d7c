import { availableMemory, estimateSeconds, mappedBytes, type PlannedRun, trainingBytes } from "@tslm/lora";
import { CommandError } from "../errors.ts";
import { bytes, duration } from "../progress.ts";
import { memoryNow, peakMemory } from "../resources.ts";
import type { Context } from "../run.ts";

/** What a run will need; the names are those of the commands' JSON. */
export interface Estimate {
  /** Seconds of training, validation included. */
  seconds: number;
  /** Memory of the process at its peak, mapped weights included. */
  peak_rss_bytes: number;
}

/** What of the options the estimate goes by. */
export interface EstimateOptions {
  /** Bytes that the process may use. */
  readonly memoryLimit?: number;
  readonly maxLength: number;
  readonly tokensPerPass?: number;
  readonly quantize?: string;
}

/** Memory that the process holds, without the pages of mapped files. */
function ownBytes(): number {
  const { rss_bytes, rss_file_bytes } = memoryNow();
  return rss_bytes - rss_file_bytes;
}

/** Advice leaves some of the memory unused: what a process holds is not the same each time. */
const ADVISED = 0.95;
/** Pages of the program itself, which are mapped files as the weights are. */
const PROGRAM_BYTES = 55e6;

/** Bytes that the run may still use. */
export function memoryToUse({ memoryLimit }: Pick<EstimateOptions, "memoryLimit">): number {
  const available = availableMemory();
  return memoryLimit === undefined ? available : Math.min(available, memoryLimit - ownBytes());
}

/**
 * Says what a run will take before it begins.
 * @throws CommandError for a run that does not fit into memory, naming the settings with which it would
 */
export async function estimateRun({ terminal }: Context, run: PlannedRun, options: EstimateOptions): Promise<Estimate> {
  // What loading and the start of an adapter left over is not to be counted, nor kept.
  Bun.gc(true);
  const own = ownBytes();
  const peakOf = (limits?: Parameters<typeof trainingBytes>[1]): number => {
    return own + mappedBytes() + PROGRAM_BYTES + trainingBytes(run, limits).bytes;
  };
  const most = Math.min(own + availableMemory(), options.memoryLimit ?? Number.POSITIVE_INFINITY);
  if (peakOf() > most) {
    throw new CommandError(
      `this run needs about ${bytes(peakOf())} of memory and may use ${bytes(most)}; ${whatFits(run, options, (limits, weights = 1) => peakOf(limits) - (1 - weights) * mappedBytes() <= ADVISED * most)}`,
    );
  }
  const { recomputed } = trainingBytes(run);
  const seconds = await estimateSeconds(run, recomputed);
  const peak = Math.max(peakOf(), peakMemory().peak_rss_bytes);
  const how = recomputed ? ", computing layers twice to fit" : "";
  terminal.say(`This will take about ${duration(seconds)} and ${bytes(peak)} of memory${how}`);
  return { seconds, peak_rss_bytes: peak };
}

/** Shares of bf16 weights' bytes that rounded ones take. */
const QUANTIZED = [
  ["q8", 0.57],
  ["q4", 0.35],
] as const;

function whatFits(
  run: PlannedRun,
  { maxLength, quantize }: EstimateOptions,
  fits: (limits: { maxLength?: number; tokensPerPass?: number }, weights?: number) => boolean,
): string {
  const longest = [...run.sequences, ...(run.validation ?? [])].reduce(
    (n, { tokens }) => Math.max(n, tokens.length),
    0,
  );
  const ways: string[] = [];
  const pass = largestFitting(longest, 1024, (tokensPerPass) => fits({ tokensPerPass }));
  if (pass !== undefined) ways.push(`--tokens-per-pass ${pass}, which changes nothing else`);
  const length = largestFitting(16, Math.min(maxLength, longest), (n) => fits({ maxLength: n, tokensPerPass: n }));
  if (pass === undefined && length !== undefined) ways.push(`--max-length ${length} --tokens-per-pass ${length}`);
  const rounded = quantize === undefined ? QUANTIZED.find(([, share]) => fits({}, share)) : undefined;
  if (rounded) ways.push(`--quantize ${rounded[0]}, which rounds the weights`);
  return ways.length > 0 ? `try ${ways.join("; or ")}` : "close other programs, or take a smaller model";
}

/** The largest number in steps of 16 that fits; undefined where even the least does not. */
function largestFitting(least: number, most: number, fits: (n: number) => boolean): number | undefined {
  for (let n = most; n > least; n = Math.max(least, n - 16)) if (fits(n)) return n;
  return fits(least) ? least : undefined;
}
