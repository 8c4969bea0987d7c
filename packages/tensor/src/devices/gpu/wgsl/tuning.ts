// Which tiles are fastest is measured once a machine: a second or two, kept for every later start.
import { files } from "#files";
import type { View } from "../../device.ts";
import type { GpuContext } from "../context.ts";
import { type Strip, stripBytes, stripName } from "./gemv.ts";
import { matmul, type Tiling } from "./matmul.ts";
import { nameOf, type Tile, tileBytes } from "./tiled.ts";
import { temporary } from "./views.ts";

const shared = (lanesM: number, lanesN: number, rows: number, columns: number, depth: number): Tile => ({
  ...{ kind: "shared", lanesM, lanesN, rows, columns, depth },
});
const direct = (lanesN: number, rows: number, columns: number): Tile => ({
  ...{ kind: "direct", lanesM: 1, lanesN, rows, columns, depth: 4 },
});
const strip = (invocations: number, lanes: number, columns: number): Strip => ({ invocations, lanes, columns });

/** Where nothing was measured: what a laptop's GPU does well. */
export const DEFAULT_TILING: Tiling = {
  large: shared(8, 16, 8, 8, 16),
  small: shared(8, 8, 4, 4, 16),
  columns: strip(128, 32, 2),
  rows: strip(128, 16, 4),
  attentionSide: 4,
};

/**
 * For drivers that compute on the processor: one invocation is one lane of a vector, all lanes of which read the same element
 * of a; barriers cost more than they save, and long shaders take seconds to compile, so nothing is measured either.
 */
export const SOFTWARE_TILING: Tiling = {
  large: direct(8, 4, 8),
  small: direct(8, 4, 8),
  columns: strip(32, 8, 1),
  rows: strip(32, 8, 4),
  attentionSide: 1,
};

/** A part of a tiling that is measured by itself. */
export type Part = "large" | "small" | "columns" | "rows";

/** What is tried for each part, and on which product [m, k, n]: that of many rows, few tokens, and one token. */
export const TRIALS: {
  readonly [K in Part]: { readonly candidates: readonly Tiling[K][]; readonly size: readonly [number, number, number] };
} = {
  large: {
    size: [512, 896, 2048],
    candidates: [
      shared(16, 16, 8, 8, 16),
      shared(16, 16, 8, 8, 8),
      shared(8, 16, 8, 8, 16),
      shared(8, 8, 8, 8, 16),
      shared(16, 16, 4, 4, 16),
      shared(8, 16, 8, 4, 16),
      direct(32, 8, 4),
    ],
  },
  small: {
    size: [48, 896, 896],
    candidates: [
      shared(8, 8, 4, 4, 16),
      shared(8, 8, 4, 4, 32),
      shared(4, 16, 4, 4, 16),
      shared(4, 8, 4, 4, 32),
      direct(32, 4, 4),
    ],
  },
  columns: {
    size: [1, 896, 4864],
    candidates: [strip(128, 32, 2), strip(128, 32, 1), strip(64, 32, 4), strip(128, 16, 2), strip(256, 64, 1)],
  },
  rows: {
    size: [8, 1024, 896],
    candidates: [strip(128, 16, 4), strip(128, 8, 4), strip(256, 16, 4), strip(64, 16, 4)],
  },
};

const PARTS = Object.keys(TRIALS) as Part[];

const nameOfPart = (part: Part, tiling: Tiling): string =>
  part === "large" || part === "small" ? nameOf(tiling[part]) : stripName(tiling[part]);

/** Does workgroup memory hold it, with as many invocations as the device takes? */
function runs({ limits }: GpuContext, part: Part, tiling: Tiling): boolean {
  const memory = limits.maxComputeWorkgroupStorageSize;
  const invocations = limits.maxComputeInvocationsPerWorkgroup;
  if (part === "large" || part === "small") {
    const tile = tiling[part];
    return tileBytes(tile) <= memory && tile.lanesM * tile.lanesN <= invocations;
  }
  const alongB = part === "columns" ? "k" : "n";
  return stripBytes({ alongB }, tiling[part], 8) <= memory && tiling[part].invocations <= invocations;
}

/** Seconds of the part's product; the best of some runs, the first of which compiles. */
async function seconds(context: GpuContext, part: Part, tiling: Tiling, share: number): Promise<number> {
  const [m, k, n] = TRIALS[part].size.map((size) => (size > 8 ? Math.ceil(size * share) : size));
  const [a, b, out] = [[m, k], part === "rows" ? [k, n] : [n, k], [m, n]].map((shape) => temporary(context, shape));
  const turned: View = { ...b.view, shape: [k, n], strides: [1, k] };
  const run = (): void => matmul(context, tiling, a.view, part === "rows" ? b.view : turned, out.view);
  let best = Number.POSITIVE_INFINITY;
  try {
    run();
    await context.done();
    for (let round = 0; round < 3; round++) {
      const started = performance.now();
      run();
      run();
      await context.done();
      best = Math.min(best, (performance.now() - started) / 2000);
    }
  } finally {
    for (const memory of [a, b, out]) memory.free();
  }
  return best;
}

/**
 * Measures every candidate that the device can run, part by part, and takes the fastest.
 *
 * @param report told of every candidate's seconds
 * @param share of the products' sizes, for tests on slow drivers
 * @param parts which are measured; the others keep the default
 */
export async function tune(
  context: GpuContext,
  report: (part: Part, name: string, seconds: number) => void = () => {},
  share = 1,
  parts: readonly Part[] = PARTS,
): Promise<Tiling> {
  let chosen = DEFAULT_TILING;
  for (const part of parts) {
    let best = Number.POSITIVE_INFINITY;
    for (const candidate of TRIALS[part].candidates) {
      const tiling = { ...chosen, [part]: candidate };
      // The part's product must not be given to another part's tiles.
      const only = part === "large" ? { ...tiling, small: tiling.large } : tiling;
      if (!runs(context, part, tiling)) continue;
      const time = await seconds(context, part, part === "small" ? { ...only, large: only.small } : only, share);
      report(part, nameOfPart(part, tiling), time);
      if (time < best) {
        best = time;
        chosen = tiling;
      }
    }
  }
  return chosen;
}

type Names = { readonly [K in Part]?: string };

/** The tiling that was written down by its candidates' names; names that are none are left to the default. */
function byName(names: Names): Tiling {
  let tiling = DEFAULT_TILING;
  for (const part of PARTS) {
    const all = TRIALS[part].candidates.map((candidate) => ({ ...tiling, [part]: candidate }));
    tiling = all.find((one) => nameOfPart(part, one) === names[part]) ?? tiling;
  }
  return tiling;
}

/** The folder of tilings: `$XDG_CACHE_HOME/tslm`, by default below `~/.cache`; none in a browser. */
function cacheFolder(): string | undefined {
  const env = globalThis.process?.env;
  const home = env?.HOME ?? env?.USERPROFILE;
  const folder = env?.XDG_CACHE_HOME || (home && `${home}/.cache`);
  return files && folder ? `${folder}/tslm` : undefined;
}

function readCache(path: string): Record<string, Names> {
  try {
    const source = files!.open(path);
    const known = JSON.parse(new TextDecoder().decode(source.bytes(0, source.byteLength)));
    source.close();
    return typeof known === "object" && known !== null && !Array.isArray(known) ? known : {};
  } catch {
    // There is none, or it is not one of ours: it is written anew.
    return {};
  }
}

async function keep(folder: string, path: string, known: Record<string, Names>): Promise<void> {
  await files!.makeFolder(folder);
  await files!.write(
    path,
    (async function* () {
      yield new TextEncoder().encode(JSON.stringify(known, null, 2));
    })(),
  );
}

/** Of this process, by adapter. */
const found = new Map<string, Tiling>();

/**
 * The tiling for a device: from memory, from `gpu-tiles.json` in the folder of caches, or measured now and kept.
 *
 * @param adapter names the GPU and its driver: another one is measured again
 * @param measure what measures; another in tests
 */
export async function tilingFor(
  context: GpuContext,
  adapter: string,
  folder = cacheFolder(),
  measure: (context: GpuContext) => Promise<Tiling> = tune,
): Promise<Tiling> {
  const inMemory = found.get(adapter);
  if (inMemory) return inMemory;
  const path = `${folder}/gpu-tiles.json`;
  const known = folder ? readCache(path) : {};
  const measured = typeof known[adapter] === "object" && known[adapter] !== null;
  const tiling = measured ? byName(known[adapter]) : await measure(context);
  found.set(adapter, tiling);
  if (folder && !measured) {
    const names = Object.fromEntries(PARTS.map((part) => [part, nameOfPart(part, tiling)]));
    // In a folder that cannot be written nothing is kept, and the next start measures again.
    await keep(folder, path, { ...known, [adapter]: names }).catch(() => {});
  }
  return tiling;
}
