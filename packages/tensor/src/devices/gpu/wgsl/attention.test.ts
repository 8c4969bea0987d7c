import { afterAll, beforeAll, describe, test } from "bun:test";
import { agree, numbers, operand, result } from "../../conformance/harness.ts";
import type { Segment } from "../../device.ts";
import type { GpuDevice } from "../device.ts";
import { gpuHere } from "../testing.ts";

const { missing, open } = await gpuHere();
if (missing) test.skip(`gpu attention (${missing})`, () => {});

describe.skipIf(missing !== undefined)("gpu attention", () => {
  let device: GpuDevice;
  beforeAll(async () => {
    device = await open();
  });
  afterAll(() => device?.dispose());

  const segment = (query: number, queries: number, key: number, keys: number): Segment => ({
    query,
    queries,
    key,
    keys,
  });

  /** Against the reference, with and without the log-sum-exp. */
  async function check(
    segments: readonly Segment[],
    queries: number,
    keys: number,
    rows?: "few" | "many",
  ): Promise<void> {
    const [heads, kvHeads, size] = [4, 2, 16];
    const random = numbers(keys + queries);
    const draw = (): number => 4 * random() - 2;
    const given = {
      q: operand("f32", [queries, heads, size], draw),
      k: operand("f32", [keys, kvHeads, size], draw),
      v: operand("f32", [keys, kvHeads, size], draw),
    };
    const tolerance = { rel: 1e-5, abs: 2e-5 };
    const outputs = {
      out: result("f32", [queries, heads, size], tolerance, "padded"),
      lse: result("f32", [heads, queries], tolerance, "transposed"),
    };
    const options = { segments, scale: 0.25, rows };
    await agree(device, given, outputs, (d, v) => d.attention(v.q, v.k, v.v, options, v.out, v.lse));
    await agree(device, given, { out: outputs.out }, (d, v) => d.attention(v.q, v.k, v.v, options, v.out, undefined));
  }

  test("few queries with many keys are shared by workgroups, beside short ones", async () => {
    await check([segment(0, 1, 0, 700)], 1, 700);
    // Several, the last of which sees a run's first key alone; a short one between; runs of the same keys.
    await check([segment(0, 3, 40, 770), segment(3, 2, 5, 30), segment(5, 1, 0, 513)], 6, 900);
    await check([segment(0, 11, 0, 600)], 11, 600, "few");
    await check([segment(0, 2, 0, 600)], 2, 600, "many");
  });

  test("queries without a sequence get nothing", async () => {
    await check([segment(2, 3, 1, 4)], 7, 9);
    await check([], 2, 3);
  });
});
