import { afterAll, expect, test } from "bun:test";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const root = join(import.meta.dir, "..", "..");
const demo = join(root, "models", "demo");
const folder = mkdtempSync(join(tmpdir(), "tslm-node-"));
afterAll(() => rmSync(folder, { recursive: true }));

interface Run {
  device: { name: string; isa: string; threads: number };
  losses: number[];
}

function run(command: string[], env: Record<string, string> = {}): Run {
  const child = Bun.spawnSync(command, { env: { ...process.env, ...env }, cwd: root });
  expect(child.stderr.toString()).toBe("");
  return JSON.parse(child.stdout.toString());
}

test.skipIf(Bun.which("node") === null || !existsSync(join(demo, "model.safetensors")))(
  "the demo model trains under Node, on the WebAssembly tier, as it does under Bun",
  async () => {
    const script = join(import.meta.dir, "train-demo.ts");
    const built = await Bun.build({
      entrypoints: [script],
      target: "node",
      outdir: folder,
      naming: "train-demo.mjs",
      conditions: ["@tslm/source"],
    });
    expect(built.success).toBe(true);
    const node = run(["node", join(folder, "train-demo.mjs"), demo]);
    expect(node.device.isa).toBe("wasm");
    expect(node.losses.at(-1)!).toBeLessThan(0.5 * node.losses[0]);
    // Same tier, same bits, whatever runs it.
    const bun = run(["bun", script, demo], { TENSOR_ISA: "wasm" });
    expect(bun.device.isa).toBe("wasm");
    expect(node.losses).toEqual(bun.losses);
  },
  120_000,
);
