import { describe, expect, test } from "bun:test";
import { AdamW, Generator, Linear, mseLoss, scope, Tensor } from "../../../index.ts";
import { runDeviceTests } from "../../conformance.ts";
import type { Backend, GpuJsRunner } from "./backend.ts";
import { openFallback } from "./open.ts";

// WebGL 2 has no place in Bun: test/pages runs this suite on it, in Chromium.
for (const name of ["webasm", "cpu"] as const) {
  describe(`gpu.js ${name}`, () => runDeviceTests(() => openFallback([name])));
}

test("backends are asked in order: one that computes wrongly is refused, and the next one taken", async () => {
  const module = (await import("gpu.js")) as unknown as { default: GpuJsRunner };
  const { GPU } = module.default;
  class Lying extends GPU {
    override createKernel(...args: Parameters<InstanceType<typeof GPU>["createKernel"]>) {
      const real = super.createKernel(...args);
      const lie = (...given: Parameters<typeof real>) => new Float32Array((real(...given) as Float32Array).length);
      return Object.assign(lie, { setOutput: (size: number[]) => real.setOutput(size) });
    }
  }
  const pretended = (base: typeof GPU, what: object): GpuJsRunner => {
    const properties = Object.entries(what).map(([name, value]) => [name, { value }]);
    return { GPU: Object.defineProperties(class extends base {}, Object.fromEntries(properties)) };
  };
  await expect(
    openFallback(["webgl2", "webasm"], ["webgpu: none"], pretended(Lying, { isWebGL2Supported: false })),
  ).rejects.toThrow(
    /no backend works here: webgpu: none; .*no webgl2 here; .*webasm of gpu.js multiplies wrongly \(0 for .*refused/,
  );
  const device = await openFallback(["webasm", "cpu"], [], pretended(GPU, { isWebAssemblySupported: false }));
  expect(device.info.isa).toBe("gpu.js cpu");
  expect(device.refused).toEqual([expect.stringContaining("gpu.js finds no webasm here")]);
  await device.dispose();
});

test("whole numbers beyond 2^24 are exact: kernels refuse them, and the loops of the reference take them", async () => {
  const device = await openFallback(["cpu"]);
  const { counts } = device.backend;
  const a = 2 ** 24 + 1;
  const table = Tensor.from([1, 2, 3], [3, 1], { device });
  const x = Tensor.from([a, -a, 5], [3], { dtype: "i32", device });
  const kernels = counts.kernels;
  expect([...(await x.add(x).data())]).toEqual([2 * a, -2 * a, 10]);
  expect([...(await x.sum().data())]).toEqual([5]);
  expect(counts.kernels).toBe(kernels);
  expect([...(await x.to("f32").data())]).toEqual([2 ** 24, -(2 ** 24), 5]);
  for (const t of [table, x]) t.dispose();
  await device.dispose();
});

test("a training step stays where kernels are: one read-back, and none of a kernel compiled again", async () => {
  const device = await openFallback(["cpu"]);
  const backend = device.backend as Backend;
  const random = new Generator(1);
  const layers = [Linear.init(2, 8, random, { device }), Linear.init(8, 1, random, { device })];
  const optimizer = new AdamW(
    layers.flatMap((layer) => [...layer.parameters()]),
    { lr: 0.01 },
  );
  const x = Tensor.from([0, 0, 0, 1, 1, 0, 1, 1], [4, 2], { device });
  const y = Tensor.from([0, 1, 1, 0], [4, 1], { device });
  const step = async (): Promise<number> => {
    const loss = scope(() => mseLoss(layers[1].forward(layers[0].forward(x).tanh()), y));
    loss.backward();
    optimizer.step();
    optimizer.zeroGrad();
    const value = await loss.item();
    loss.dispose();
    return value;
  };
  await step();
  const { downloads, compiled } = backend.counts;
  let last = Number.NaN;
  for (let i = 0; i < 400; i++) last = await step();
  expect(last).toBeLessThan(0.05);
  expect([backend.counts.downloads - downloads, backend.counts.compiled]).toEqual([400, compiled]);
  await device.dispose();
});
