import { existsSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";

/** A Python environment of its own, outside of the project; made once. */
const ENVIRONMENT = process.env.TENSORBOARD_VENV ?? join(homedir(), ".cache", "tslm", "tensorboard");
const PYTHON = join(ENVIRONMENT, "bin", "python");
const DONE = join(ENVIRONMENT, ".done");

/**
 * The Python that has TensorBoard; installs it where it is not there yet.
 *
 * @returns undefined, and says why, where it cannot be had
 */
export async function tensorBoardPython(): Promise<string | undefined> {
  if (existsSync(DONE)) return PYTHON;
  const commands = [
    ["python3", "-m", "venv", ENVIRONMENT],
    [PYTHON, "-m", "pip", "install", "--quiet", "--timeout", "10", "--retries", "1", "tensorboard==2.21.0"],
    ["touch", DONE],
  ];
  for (const command of commands) {
    const { success, stderr } = await run(command);
    if (success) continue;
    console.warn(`skipped: TensorBoard cannot be installed: ${command.join(" ")}: ${stderr.trim().split("\n").at(-1)}`);
    return undefined;
  }
  return PYTHON;
}

async function run(command: readonly string[]): Promise<{ success: boolean; stderr: string }> {
  try {
    const child = Bun.spawn([...command], { stdout: "ignore", stderr: "pipe", timeout: 60_000 });
    const stderr = await new Response(child.stderr).text();
    return { success: (await child.exited) === 0, stderr };
  } catch (error) {
    return { success: false, stderr: (error as Error).message };
  }
}
