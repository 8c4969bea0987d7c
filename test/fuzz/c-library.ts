/** Jazzer.js's native part wants GNU's C library from 2.38 on (2023). Older systems may have a newer one in a folder. */
import { existsSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";

const WANTED = 2.38;
/** Where `newer-c-library.sh` leaves one. */
const FOLDER = process.env.TSLM_FUZZ_LIBC ?? join(homedir(), ".cache/tslm-fuzz/libc");
const BESIDE = join(FOLDER, "usr/lib/x86_64-linux-gnu");

/** How to start Node so that Jazzer.js loads, or why it does not. */
export function nodeCommand(): { readonly command: readonly string[] } | { readonly missing: string } {
  const node = Bun.which("node");
  if (!node) return { missing: "Jazzer.js runs in Node, which is not here" };
  const script = "process.report.getReport().header.glibcVersionRuntime ?? 'none'";
  const version = Bun.spawnSync([node, "-p", script]).stdout.toString().trim();
  if (process.platform !== "linux" || Number(version) >= WANTED) return { command: [node] };
  const loader = join(BESIDE, "ld-linux-x86-64.so.2");
  if (existsSync(loader)) return { command: [loader, "--library-path", `${BESIDE}:/usr/lib/x86_64-linux-gnu`, node] };
  return {
    missing: `Jazzer.js wants the C library from ${WANTED} on, this system has ${version}; run test/fuzz/newer-c-library.sh`,
  };
}
