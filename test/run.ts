/**
 * All tests: brings the real weights first, where a script for them lies beside the checkout, so that the golden values
 * are checked as well; then the type check, the linter and `bun test`. Ends with one line: N passed, N failed, N skipped.
 *
 *   bun run test [--fast] [bun test arguments …]      --fast: no real weights, no type check
 */
import { existsSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";

const root = join(import.meta.dir, "..");
const args = process.argv.slice(2);
const fast = args.includes("--fast");
const rest = args.filter((a) => a !== "--fast");
const env: Record<string, string | undefined> = { ...process.env };

/** Runs a helper script of the checkout's surroundings; the folder it prints last, or undefined where there is none. */
async function bring(what: string, script: string, known: string): Promise<string | undefined> {
  if (existsSync(known)) return known;
  if (!existsSync(script)) {
    console.log(`${what}: not here, tests that need it will say that they were skipped`);
    return undefined;
  }
  console.log(`${what}: fetching …`);
  const child = Bun.spawn([script], { stdout: "pipe", stderr: "ignore" });
  const printed = (await new Response(child.stdout).text()).trim().split("\n").at(-1);
  if ((await child.exited) === 0) return printed;
  console.log(`${what}: could not be fetched, tests that need it will say that they were skipped`);
  return undefined;
}

async function passes(name: string, ...command: string[]): Promise<boolean> {
  const child = Bun.spawn(command, { cwd: root, stdout: "inherit", stderr: "inherit", env });
  const ok = (await child.exited) === 0;
  console.log(`${name}: ${ok ? "clean" : "failed"}`);
  return ok;
}

let clean = true;
if (!fast) {
  const shared = join(root, "..", "shared");
  const weights = env.QWEN_REAL_MODEL ?? join(homedir(), ".cache", "qwen-real");
  const peers = env.QWEN_PEERS ?? join(homedir(), ".cache", "qwen-peers");
  env.QWEN_REAL_MODEL = (
    await bring("real weights", join(shared, "real-model", "fetch"), join(weights, ".done"))
  )?.replace(/\/\.done$/, "");
  env.QWEN_PEERS = (
    await bring("PyTorch and PEFT", join(shared, "peers", "setup"), join(peers, "node_modules", "node-llama-cpp"))
  )?.replace(/\/node_modules.*$/, "");
  clean = await passes("format and lint", "bunx", "biome", "check", ".");
  clean = (await passes("types", "bunx", "tsc", "--noEmit", "-p", ".")) && clean;
}

const child = Bun.spawn(["bun", "test", "--timeout=120000", ...rest], {
  cwd: root,
  env,
  stdout: "inherit",
  stderr: "pipe",
});
const counts: Record<string, number> = { pass: 0, fail: 0, skip: 0 };
let tail = "";
const decoder = new TextDecoder();
for await (const chunk of child.stderr) {
  process.stderr.write(chunk);
  tail = (tail + decoder.decode(chunk, { stream: true })).slice(-4000);
}
const status = await child.exited;
for (const [, count, what] of tail.matchAll(/^\s*(\d+) (pass|fail|skip)$/gm)) counts[what] = Number(count);
if (!clean) counts.fail++;
console.log(`${counts.pass} passed, ${counts.fail} failed, ${counts.skip} skipped`);
process.exit(status !== 0 || counts.fail > 0 ? 1 : 0);
