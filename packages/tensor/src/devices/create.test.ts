import { expect, test } from "bun:test";
import { createDevice, type DeviceName } from "./create.ts";

test("a tier and a number of threads can be asked for", async () => {
  const device = await createDevice("cpu", { isa: "wasm", threads: 1 });
  expect(device.info).toEqual({ name: "cpu", isa: "wasm", threads: 1 });
  await device.dispose();
});

test("an unknown name is refused with the names there are", async () => {
  await expect(createDevice("tpu" as DeviceName)).rejects.toThrow(/no device is called "tpu"; there are auto, cpu/);
});
