import { expect, test } from "bun:test";
import { createDevice, init, memory, setDefaultDevice } from "../../index.ts";
import { describeDevice } from "../../measure.ts";
import { reference } from "../registry.ts";

test("a backend is forced by an option or the environment, and said", async () => {
  const before = memory().storages;
  const device = await createDevice("gpu", { backend: "cpu" });
  expect(device.info).toEqual({ name: "gpu", isa: "gpu.js cpu", threads: 1 });
  expect(await describeDevice(device)).toMatchObject({ backend: "cpu of gpu.js", adapter: "cpu" });
  await device.dispose();
  process.env.TENSOR_GPU_BACKEND = "webasm";
  try {
    const messages: string[] = [];
    const made = await init({ device: "gpu", progress: ({ message }) => void messages.push(message) });
    expect(messages.at(-1)).toBe("Computing on gpu (gpu.js webasm), 1 thread");
    await made.dispose();
  } finally {
    delete process.env.TENSOR_GPU_BACKEND;
    setDefaultDevice(reference);
  }
  expect(memory().storages).toBe(before);
});

test("a backend that is not there, or not known, is an error that names it", async () => {
  await expect(createDevice("gpu", { backend: "webgl2" })).rejects.toThrow(/gpu.js finds no webgl2 here/);
  await expect(createDevice("gpu", { backend: "glide" as "cpu" })).rejects.toThrow(
    /no backend is called "glide"; there are webgpu, webgl2, webasm, cpu/,
  );
});

test("without WebGPU the first backend that works is taken, and the reasons against others are kept", async () => {
  const script = `
    import { mock } from "bun:test";
    mock.module("webgpu", () => { throw new Error("no binary"); });
    const { createDevice } = await import("${import.meta.dir}/../create.ts");
    const { describeDevice } = await import("${import.meta.dir}/../limits.ts");
    const device = await createDevice("gpu");
    console.log(JSON.stringify({ ...(await describeDevice(device)), warning: device.info.warning }));`;
  const child = Bun.spawn([process.execPath, "-e", script], { stdout: "pipe", stderr: "pipe" });
  const said = JSON.parse(await new Response(child.stdout).text());
  expect(said).toMatchObject({ device: "gpu", backend: "webasm of gpu.js" });
  expect(said.warning).toMatch(
    /^no GPU is used: webasm of gpu.js computes on the processor.*Use that, or.*does not load/,
  );
  expect(said.refused).toMatch(/^webgpu: .*the package for it does not load.*no webgl2 here/);
});
