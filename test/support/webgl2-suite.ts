// In a page: the conformance suite of devices on gpu.js' WebGL 2.
import { DEVICE_TESTS } from "../../packages/tensor/src/devices/conformance.ts";
import { openFallback } from "../../packages/tensor/src/devices/gpu/fallback/open.ts";

/** What the page gives for a test of the suite. */
export interface Outcome {
  readonly name: string;
  /** Why it failed; nothing where it passed. */
  readonly error?: string;
  readonly seconds: number;
}

const device = await openFallback(["webgl2"]);

Object.assign(globalThis, {
  suite: {
    adapter: device.backend.describe(),
    limits: device.backend.limits(),
    names: DEVICE_TESTS.map(({ name }) => name),
    counts: device.backend.counts,
    async run(name: string): Promise<Outcome> {
      const started = performance.now();
      const outcome = (error?: unknown): Outcome => ({
        name,
        ...(error === undefined ? {} : { error: String(error) }),
        seconds: (performance.now() - started) / 1000,
      });
      try {
        const { run } = DEVICE_TESTS.find((test) => test.name === name)!;
        await run({ device, bounds: { product: 4e-6 }, again: () => openFallback(["webgl2"]) });
        return outcome();
      } catch (error) {
        return outcome(error);
      }
    },
  },
});
