import { describe, test } from "bun:test";
import { runDeviceTests } from "../conformance.ts";
import { gpuHere } from "./testing.ts";

const { missing, open } = await gpuHere();
if (missing) test.skip(`gpu (${missing})`, () => {});
describe.skipIf(missing !== undefined)("gpu", () => {
  runDeviceTests(() => open());
});
