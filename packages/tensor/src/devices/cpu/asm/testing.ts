/** GNU as as the judge of machine code. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** Where one processor's tools are, and how text is put to them. */
interface Tools {
  readonly prefix: string;
  readonly arguments: readonly string[];
  /** First line of the text. */
  readonly syntax: string;
}

const X64: Tools = { prefix: "", arguments: ["--64"], syntax: ".intel_syntax noprefix" };
const ARM64: Tools = {
  prefix: process.arch === "arm64" ? "" : "aarch64-linux-gnu-",
  arguments: [],
  syntax: ".arch armv8.2-a+dotprod+fp16",
};

function have({ prefix }: Tools, encoders: string): boolean {
  const all = Bun.which(`${prefix}as`) !== null && Bun.which(`${prefix}objcopy`) !== null;
  if (!all)
    console.warn(`SKIPPED: GNU as and objcopy (${prefix}as) are not here to compare the ${encoders} encoders with`);
  return all;
}

/** Whether this computer has what `assemble` runs. */
export const haveAs = process.arch === "x64" && have(X64, "x86-64");
/** Whether this computer has what `assembleArm64` runs. */
export const haveArm64As = have(ARM64, "arm64");

/** Machine code of lines in Intel syntax. */
export const assemble = (lines: readonly string[]): Uint8Array => run(X64, lines);
/** Machine code of arm64's lines. */
export const assembleArm64 = (lines: readonly string[]): Uint8Array => run(ARM64, lines);

function run({ prefix, arguments: options, syntax }: Tools, lines: readonly string[]): Uint8Array {
  const folder = mkdtempSync(join(tmpdir(), "asm-"));
  try {
    writeFileSync(join(folder, "a.s"), `${syntax}\n${lines.join("\n")}\n`);
    for (const command of [
      [`${prefix}as`, ...options, "-o", "a.o", "a.s"],
      [`${prefix}objcopy`, "-O", "binary", "-j", ".text", "a.o", "a.bin"],
    ]) {
      const run = Bun.spawnSync(command, { cwd: folder });
      if (run.exitCode !== 0) throw new Error(run.stderr.toString());
    }
    return new Uint8Array(readFileSync(join(folder, "a.bin")));
  } finally {
    rmSync(folder, { recursive: true });
  }
}
