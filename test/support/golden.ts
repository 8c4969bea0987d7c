/** Where the golden values, the real weights and the peers lie, for the tests that need them. */
import { existsSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";

/** Beside the checkout; undefined where it is not. */
export function findGolden(): string | undefined {
  const folder = join(import.meta.dir, "..", "..", "..", "shared", "golden");
  return existsSync(join(folder, "golden.json")) ? folder : undefined;
}

/** $QWEN_REAL_MODEL, or where the script beside the golden values puts the weights. */
export function findWeights(): string | undefined {
  const places = [process.env.QWEN_REAL_MODEL, join(homedir(), ".cache", "qwen-real")];
  return places
    .flatMap((dir) => (dir ? [dir, join(dir, "hf")] : []))
    .find((dir) => existsSync(join(dir, "config.json")));
}

/** The Python of the peers' environment, with PyTorch, transformers and PEFT: of $QWEN_PEERS or its usual place. */
export function findPython(): string | undefined {
  const python = join(process.env.QWEN_PEERS ?? join(homedir(), ".cache", "qwen-peers"), "venv", "bin", "python");
  return existsSync(python) ? python : undefined;
}

/** The folder that node-llama-cpp is installed in: $QWEN_PEERS or its usual place. */
export function findLlama(): string | undefined {
  const folder = process.env.QWEN_PEERS ?? join(homedir(), ".cache", "qwen-peers");
  return existsSync(join(folder, "node_modules", "node-llama-cpp")) ? folder : undefined;
}

/** The GGUF file that the real weights come from, beside them. */
export function findGguf(): string | undefined {
  const weights = findWeights();
  const places = weights === undefined ? [] : [weights, join(weights, "..")];
  return places.map((dir) => join(dir, "model.gguf")).find((path) => existsSync(path));
}

/** Title of a suite that says what it misses: `golden training (skipped: no real weights)`. */
export function titleOf(suite: string, needs: Readonly<Record<string, unknown>>): { title: string; skip: boolean } {
  const missing = Object.keys(needs).filter((what) => !needs[what]);
  return {
    title: missing.length > 0 ? `${suite} (skipped: no ${missing.join(", no ")})` : suite,
    skip: missing.length > 0,
  };
}
