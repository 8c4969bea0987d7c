import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { elementwiseTests } from "./conformance/elementwise.ts";
import type { Bounds, DeviceTest } from "./conformance/harness.ts";
import { lowRankTests } from "./conformance/low-rank.ts";
import { matmulTests } from "./conformance/matmul.ts";
import { memoryTests } from "./conformance/memory.ts";
import { modelTests } from "./conformance/model.ts";
import { reduceTests } from "./conformance/reduce.ts";
import { rowTests } from "./conformance/rows.ts";
import type { Device } from "./device.ts";

/** Every test that a device must pass. */
export const DEVICE_TESTS: readonly DeviceTest[] = [
  ...memoryTests,
  ...elementwiseTests,
  ...reduceTests,
  ...matmulTests,
  ...lowRankTests,
  ...rowTests,
  ...modelTests,
];

/** A test that a device does not pass, and why that is right. */
export interface Skip {
  readonly test: string;
  readonly reason: string;
}

/** A slow device on a busy machine is no failure. */
const TIMEOUT_MS = 120_000;

/**
 * Registers the suite for a device: every primitive against `reference`, over shapes, layouts, element types and
 * values, with the bounds stated in each test. A device's own test file needs no more than this call.
 *
 * @param makeDevice a new device, with so many threads where it is told
 * @param options `product`: the error of a matrix product as a share of Σ|a·b| (4e-6, an f32 sum's); a device whose
 *   products are rounded earlier states its own
 */
export function runDeviceTests(
  makeDevice: (threads?: number) => Device | Promise<Device>,
  { skip = [], bounds = {} }: { skip?: readonly Skip[]; bounds?: Partial<Bounds> } = {},
): void {
  describe("device", () => {
    let device: Device;
    beforeAll(async () => {
      device = await makeDevice();
    });
    afterAll(() => device?.dispose());

    for (const { name, run } of DEVICE_TESTS) {
      const reason = skip.find((s) => s.test === name)?.reason;
      if (reason !== undefined) test.skip(`${name} (${reason})`, () => {});
      else {
        const check = (): Promise<void> =>
          run({ device, bounds: { product: 4e-6, ...bounds }, again: async (threads) => makeDevice(threads) });
        test(name, check, TIMEOUT_MS);
      }
    }
    test("every skip names a test", () => {
      const names = DEVICE_TESTS.map((t) => t.name);
      expect(skip.filter((s) => !names.includes(s.test))).toEqual([]);
    });
  });
}
