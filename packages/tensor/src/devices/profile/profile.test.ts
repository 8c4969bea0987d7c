import { expect, test } from "bun:test";
import { attention, reference, scope, swiglu, tensor } from "../../index.ts";
import { Profile, profiled, profileRows, quietest } from "./index.ts";

const profile = new Profile();
const device = profiled(reference, profile);

test("the profiled device computes what the device computes", async () => {
  const x = tensor([[1, 2, 3]], { device });
  const y = scope(() => x.matmul(x.T).mul(2));
  expect(await y.tolist()).toEqual([[28]]);
  expect(y.device).toBe(device);
  expect(device.info).toEqual(reference.info);
  profile.take();
});

test("arithmetic and bytes of a call, by what its shapes say", () => {
  scope(() => {
    const a = tensor([[1, 2, 3]], { device });
    const b = tensor(
      [
        [1, 2],
        [3, 4],
        [5, 6],
      ],
      { device },
    );
    profile.take();
    a.matmul(b);
    swiglu(b, b);
    b.silu();
    b.sum();
    a.add(tensor([[1]], { device }));
  });
  const costs = profile.take().map(({ primitive, detail, flops, bytes }) => ({ primitive, detail, flops, bytes }));
  expect(costs).toEqual([
    { primitive: "matmul", detail: "1×3 · 3×2 f32", flops: 12, bytes: 4 * (3 + 6 + 2) },
    { primitive: "swiglu", detail: "[3×2]", flops: 5 * 6, bytes: 4 * 18 },
    { primitive: "elementwise", detail: "x0 * (1 / (exp(neg(x0)) + 1)) [3×2]", flops: 5 * 6, bytes: 4 * 12 },
    { primitive: "reduce", detail: "sum of x0 [3×2]", flops: 6, bytes: 4 * 7 },
    { primitive: "write", detail: "", flops: 0, bytes: 4 },
    { primitive: "elementwise", detail: "x0 + x1 [1×3]", flops: 3, bytes: 4 * 7 },
  ]);
});

test("attention counts the keys that a query sees", () => {
  scope(() => {
    const x = tensor([[[1, 2]], [[3, 4]], [[5, 6]]], { device });
    profile.take();
    attention(x, x, x, [{ query: 0, queries: 3, key: 0, keys: 3 }]);
  });
  // 1 + 2 + 3 pairs, two products of size 2 each.
  expect(profile.take()[0].flops).toBe(6 * 2 * 2 * 2);
});

test("rows join calls of one kind; the quietest run has each call's shortest time", () => {
  const call = { primitive: "argmax", detail: "[2]", flops: 1, bytes: 4, seconds: 3 } as const;
  const other = { ...call, detail: "[3]", seconds: 1 };
  const runs = [
    [call, other, call],
    [{ ...call, seconds: 1 }, { ...other, seconds: 5 }, call],
  ];
  expect(profileRows(quietest(runs))).toEqual([
    { primitive: "argmax", detail: "[2]", calls: 2, seconds: 4, flops: 2, bytes: 8 },
    { primitive: "argmax", detail: "[3]", calls: 1, seconds: 1, flops: 1, bytes: 4 },
  ]);
  expect(() => quietest([[call], [other]])).toThrow("the runs differ at call 1, argmax [2]");
  expect(() => quietest([[call], [call, call]])).toThrow("the runs differ");
});
