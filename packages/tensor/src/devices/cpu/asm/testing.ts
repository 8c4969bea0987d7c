/** GNU as as the judge of machine code. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** Whether this computer has what `assemble` runs. */
export const haveAs = Bun.which("as") !== null && Bun.which("objcopy") !== null && process.arch === "x64";
if (!haveAs)
  console.warn("SKIPPED: GNU as and objcopy are not here, so the x86-64 encoders are not compared with them");

/** Machine code of lines in Intel syntax. */
export function assemble(lines: readonly string[]): Uint8Array {
  const folder = mkdtempSync(join(tmpdir(), "asm-"));
  try {
    writeFileSync(join(folder, "a.s"), `.intel_syntax noprefix\n${lines.join("\n")}\n`);
    for (const command of [
      ["as", "--64", "-o", "a.o", "a.s"],
      ["objcopy", "-O", "binary", "-j", ".text", "a.o", "a.bin"],
    ]) {
      const run = Bun.spawnSync(command, { cwd: folder });
      if (run.exitCode !== 0) throw new Error(run.stderr.toString());
    }
    return new Uint8Array(readFileSync(join(folder, "a.bin")));
  } finally {
    rmSync(folder, { recursive: true });
  }
}
