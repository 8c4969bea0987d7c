import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";

test("the README's command runs, with help and exit status", () => {
  const root = join(import.meta.dir, "..");
  const example = readFileSync(join(root, "README.md"), "utf8").match(/```ts\n(.*?)```/s)![1];
  // The package's own name resolves here because the working folder is the package's.
  const devices = (...args: string[]) => {
    const code = `process.argv = ["bun", "devices.ts", ...${JSON.stringify(args)}];\n${example}`;
    const { exitCode, stdout, stderr } = Bun.spawnSync([process.execPath, "-e", code], { cwd: root });
    return { exitCode, stdout: stdout.toString(), stderr: stderr.toString() };
  };
  expect(devices("--device", "reference")).toEqual({ exitCode: 0, stdout: "reference (js), 1 threads\n", stderr: "" });
  expect(devices("--help").stdout).toContain("bun devices.ts --device cpu  the compiled device");
  expect(devices("--threads", "0")).toMatchObject({ exitCode: 2, stdout: "" });
}, 60_000);
