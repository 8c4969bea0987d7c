import { afterEach, expect, test } from "bun:test";
import * as tensor from "./index.ts";

afterEach(() => tensor.setDefaultDevice(tensor.reference));

test("init starts a device, makes it the default and tells how far it is", async () => {
  const told: string[] = [];
  const device = await tensor.init({
    device: "cpu",
    threads: 1,
    progress: ({ stage, message }) => told.push(stage, message),
  });
  expect(tensor.defaultDevice()).toBe(device);
  expect(tensor.zeros([1]).device.info.name).toBe("cpu");
  expect(told).toEqual([
    "loading",
    "Starting the device cpu",
    "ready",
    `Computing on cpu (${device.info.isa}), 1 thread`,
  ]);
  await device.dispose();
});

test("init refuses a name that is none, and leaves the default", async () => {
  await expect(tensor.init({ device: "tpu" as "cpu" })).rejects.toThrow('no device is called "tpu"');
  expect(tensor.defaultDevice()).toBe(tensor.reference);
});
