import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { ROOT, temporaryFolder } from "../support/process.ts";
import { pythonWithClients } from "../support/python.ts";
import { type Served, serveProcess, writeToolModel } from "../support/server.ts";

setDefaultTimeout(120_000);

const python = await pythonWithClients();
const KEY = "s3cret";

async function run(command: readonly string[], cwd?: string): Promise<{ status: number; output: string }> {
  const env = { ...process.env, NO_COLOR: "1" };
  const child = Bun.spawn([...command], { stdout: "pipe", stderr: "pipe", env, cwd });
  const [out, err] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
  return { status: await child.exited, output: out + err };
}

describe.skipIf(python === undefined)("Python's programs", () => {
  let home: Awaited<ReturnType<typeof temporaryFolder>>;
  let served: Served;

  beforeAll(async () => {
    home = await temporaryFolder();
    const model = join(home.path, "demo");
    await writeToolModel(model);
    const stored = ["--adapter-root", home.path, "--conversations", join(home.path, "conversations.db")];
    const quick = { TSLM_LIMITS_MAX_TOKENS: "32", TSLM_LIMITS_CHOICES: "2", TSLM_LIMITS_INPUTS: "4" };
    served = await serveProcess(["--model", model, "--api-key", KEY, "--log-level", "error", ...stored], quick);
  });
  afterAll(async () => {
    await served[Symbol.asyncDispose]();
    await home[Symbol.asyncDispose]();
  });

  test("OpenAI's own client", async () => {
    const script = join(ROOT, "test/support/openai_client.py");
    const { status, output } = await run([python!, script, served.url, KEY, served.model]);
    expect({ status, output }).toEqual({ status: 0, output: expect.stringContaining("GB") });
  });

  test("schemathesis: what the document allows and forbids is answered as it says, and never with a fault", async () => {
    const checks = [
      "not_a_server_error",
      "status_code_conformance",
      "content_type_conformance",
      "response_schema_conformance",
      "ignored_auth",
    ];
    const command = [
      join(python!, "../schemathesis"),
      ...["run", `${served.url}/openapi.json`, "--url", served.url, "-H", `Authorization: Bearer ${KEY}`],
      ...["--phases", "coverage,fuzzing", "--max-examples", "20", "--max-time", "25", "--seed", "1"],
      ...["--checks", checks.join(","), "--continue-on-failure", "--no-color", "--suppress-health-check", "all"],
    ];
    // It leaves files of its own where it runs.
    const { status, output } = await run(command, home.path);
    expect({ status, output: status === 0 ? "" : output }).toEqual({ status: 0, output: "" });
    const cases = Number(/(\d+) generated/.exec(output)?.[1]);
    expect(cases).toBeGreaterThan(500);
    expect((await fetch(`${served.url}/health`)).status).toBe(200);
    expect(served.running.stderr()).not.toContain('"level":50');
  });
});
