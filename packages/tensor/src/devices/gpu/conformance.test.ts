import { describe, test } from "bun:test";
import { runDeviceTests } from "../conformance.ts";
import { gpuHere } from "./testing.ts";

const { missing, open } = await gpuHere();
if (missing) test.skip(`gpu (${missing})`, () => {});
describe.skipIf(missing !== undefined)("gpu", () => {
  runDeviceTests(() => open());
});

const subgroup = missing ? 1 : await subgroupHere();
if (!missing && subgroup === 1) test.skip("gpu without subgroups (the adapter has none to leave out)", () => {});
describe.skipIf(subgroup === 1)(`gpu without the adapter's subgroups (${subgroup} neighbours)`, () => {
  runDeviceTests(() => open({ subgroups: false }));
});

async function subgroupHere(): Promise<number> {
  const device = await open();
  const { subgroup } = device.context;
  await device.dispose();
  return subgroup;
}
