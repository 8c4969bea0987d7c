import { existsSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";

/** Python programs that talk to the server; as they are at the time of writing, so that a test fails for our reasons alone. */
const PACKAGES = ["openai==3.57.0", "schemathesis==4.32.5"];

const dir = join(process.env.TSLM_TEST_CACHE ?? join(homedir(), ".cache/tslm-tests"), "venv");
const made = join(dir, `.made-${PACKAGES.join("-").replaceAll("=", "")}`);

/**
 * The Python of a virtual environment with the packages, made at the first use and kept; undefined, and said, where there is no
 * Python or no way to its packages.
 */
export async function pythonWithClients(): Promise<string | undefined> {
  const python = join(dir, "bin/python");
  if (existsSync(made)) return python;
  const steps = [
    ["python3", "-m", "venv", dir],
    [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", ...PACKAGES],
  ];
  for (const step of steps) {
    const child = Bun.spawn(step, { stdout: "ignore", stderr: "pipe", timeout: 90_000 });
    const told = await new Response(child.stderr).text();
    if ((await child.exited) === 0) continue;
    console.warn(`skipped: ${step.slice(0, 4).join(" ")} failed: ${told.trim().split("\n").at(-1)}`);
    return undefined;
  }
  await Bun.write(made, "");
  return python;
}
