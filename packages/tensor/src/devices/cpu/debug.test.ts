import { expect, test } from "bun:test";
import { join } from "node:path";
import { timingTable } from "./debug.node.ts";

const program = `
import { CpuDevice } from ${JSON.stringify(join(import.meta.dir, "index.ts"))};
import { Pair } from ${JSON.stringify(join(import.meta.dir, "testing.ts"))};
const device = new CpuDevice({ threads: 2 });
const [a, b, out] = [[2, 3], [3, 4], [2, 4]].map((shape) => new Pair(device).make({ shape })[0]);
device.matmul(a, b, out);
`;

function stderrOf(level: string): string {
  const env = { ...process.env, TENSOR_DEBUG: level };
  return Bun.spawnSync([process.execPath, "-e", program], { env, timeout: 20_000 }).stderr.toString();
}

test("TENSOR_DEBUG: 1 tells the device, 2 the kernels' times, 4 their code; 0 nothing", () => {
  expect(stderrOf("0")).toBe("");
  expect(stderrOf("1")).toMatch(/^cpu device: \w+, 2 threads, .+\n$/);
  expect(stderrOf("2")).toMatch(/\nkernel +calls +ms +us a call\n(.*\n)*gemm_f32_nn +1 /);
  expect(stderrOf("4")).toMatch(/gemm_f32_nn, \w+, \d+ bytes\n/);
  expect(timingTable()).toStartWith("kernel");
});
