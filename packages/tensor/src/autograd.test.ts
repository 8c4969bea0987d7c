import { describe, expect, test } from "bun:test";
import {
  apply,
  attention,
  backward,
  cat,
  checkpoint,
  defineOp,
  dropout,
  enableGrad,
  GradientError,
  isGradEnabled,
  linear,
  linearCrossEntropy,
  memory,
  noGrad,
  rmsNorm,
  scope,
  Tensor,
  tensor,
  where,
  zeros,
} from "./index.ts";

const leaf = (values: number[]): Tensor => tensor(values, { dtype: "f64", requiresGrad: true });
const list = async (t: Tensor | undefined): Promise<number[]> => [...(await t!.data())];

describe("backward", () => {
  test("adds up over uses, calls and views", async () => {
    const x = leaf([1, 2, 3]);
    x.mul(x).add(x).sum().backward();
    expect(await list(x.grad)).toEqual([3, 5, 7]);
    x.mul(10).sum().backward();
    expect(await list(x.grad)).toEqual([13, 15, 17]);
    x.slice(0, 1).reshape(1, 2).T.select(0, 1).sum().backward();
    expect(await list(x.grad)).toEqual([13, 15, 18]);
  });

  test("a gradient that reaches two tensors is not changed in one by what the other gets", async () => {
    const [a, b] = [leaf([1, 2]), leaf([3, 4])];
    const sum = a.add(b);
    sum.sum().backward();
    a.mul(5).sum().backward();
    expect(await list(a.grad)).toEqual([6, 6]);
    expect(await list(b.grad)).toEqual([1, 1]);
  });

  test("the gradient given by the caller is not changed", async () => {
    const x = leaf([1, 2]);
    const start = tensor([1, 10], { dtype: "f64" });
    x.clone().backward(start);
    x.mul(2).sum().backward();
    expect(await list(x.grad)).toEqual([3, 12]);
    expect(await list(start)).toEqual([1, 10]);
    const y = leaf([1, 2]);
    y.backward(start);
    y.backward(start);
    expect(await list(y.grad)).toEqual([2, 20]);
    expect(await list(start)).toEqual([1, 10]);
  });

  test("the gradient of a diamond flows once through each op", async () => {
    const x = leaf([2]);
    const a = x.mul(3);
    const b = a.mul(a).add(a);
    b.add(b.mul(2)).backward();
    // d/dx 3·(9x² + 3x)
    expect(await list(x.grad)).toEqual([117]);
  });

  test("a leaf's gradient is its own contiguous memory", async () => {
    const x = tensor(
      [
        [1, 2, 3],
        [4, 5, 6],
      ],
      { requiresGrad: true },
    );
    x.T.mul(tensor([1, 10]))
      .sum()
      .backward();
    expect(x.grad!.strides).toEqual([3, 1]);
    expect(await list(x.grad)).toEqual([1, 1, 1, 10, 10, 10]);
  });

  test("parts of one gradient are cut apart for the tensors that were joined", async () => {
    const [a, b] = [leaf([1]), leaf([2, 3])];
    cat([a, b, a])
      .mul(tensor([1, 2, 3, 4], { dtype: "f64" }))
      .sum()
      .backward();
    expect(await list(a.grad)).toEqual([5]);
    expect(await list(b.grad)).toEqual([2, 3]);
  });

  test("frees the graph, and says so when asked again", () => {
    const before = memory().storages;
    const x = leaf([1, 2]);
    const loss = scope(() => x.exp().mul(x).sin().sum());
    expect(memory().storages).toBeGreaterThan(before + 2);
    loss.backward();
    expect(memory().storages).toBe(before + 3); // x, its gradient, the loss
    expect(() => loss.backward()).toThrow(
      "[sum] backward ran through this graph before and freed it; compute the loss anew",
    );
    for (const t of [x, loss]) t.dispose();
    expect(memory().storages).toBe(before);
  });

  test("an error on the way leaves no gradients behind", () => {
    const broken = defineOp<undefined>({
      name: "broken",
      infer: ([x]) => x,
      forward: (_context, [x]) => x.clone(),
      backward: () => {
        throw new Error("broken");
      },
    });
    const x = leaf([1, 2]);
    const before = memory().storages;
    scope(() => {
      const y = apply(broken, [x.mul(2)], undefined);
      expect(() => y.exp().sum().backward()).toThrow("broken");
    });
    Bun.gc(true);
    expect(x.grad).toBeUndefined();
    expect(memory().storages).toBeLessThanOrEqual(before + 4); // what the unfinished tape still holds
  });

  test("refuses what has no gradient, is no scalar, or does not fit", () => {
    expect(() => tensor([1]).backward()).toThrow(GradientError);
    expect(() => tensor([1]).backward()).toThrow(
      "[backward] nothing here requires a gradient; set requiresGrad on a parameter",
    );
    expect(() => leaf([1, 2]).mul(2).backward()).toThrow(
      "[backward] a tensor of shape [2] needs a gradient to start from; reduce it to a scalar",
    );
    const y = leaf([1, 2]).mul(2);
    expect(() => backward(y, tensor([1], { dtype: "f64" }))).toThrow(
      "[backward] a gradient of shape [1] f64 does not fit a tensor of [2] f64",
    );
    expect(() => backward(y, tensor([1, 2]))).toThrow(/shape \[2\] f32 does not fit a tensor of \[2\] f64/);
    expect(() => {
      y.requiresGrad = false;
    }).toThrow("[requiresGrad] only a leaf can be set; use detach() for a copy without history");
    expect(() => tensor([1], { dtype: "i32", requiresGrad: true })).toThrow(
      "[requiresGrad] gradients need f32 or f64, not i32",
    );
  });
});

describe("recording", () => {
  test("noGrad records nothing, enableGrad does again, both end with their body", () => {
    const x = leaf([1]);
    const inside = noGrad(() => {
      expect(isGradEnabled()).toBe(false);
      return [x.mul(2), enableGrad(() => x.mul(2)), x.mul(2)];
    });
    expect(inside.map((t) => t.requiresGrad)).toEqual([false, true, false]);
    expect(() =>
      noGrad(() => {
        throw new Error("inside");
      }),
    ).toThrow("inside");
    expect(isGradEnabled()).toBe(true);
  });

  test("keeps nothing for inputs that need no gradient", () => {
    const [x, frozen] = [tensor([[1, 2]], { requiresGrad: true }), tensor([[3, 4]])];
    const before = memory().storages;
    const y = scope(() => linear(x.mul(1), frozen)); // only the weight is kept, which lives anyway
    expect(memory().storages).toBe(before + 1);
    const z = scope(() => linear(frozen.mul(1), frozen));
    expect(z.requiresGrad).toBe(false);
    expect(memory().storages).toBe(before + 2);
    for (const t of [y, z]) t.dispose();
  });

  test("detach cuts the history and shares the memory", async () => {
    const x = leaf([1, 2]);
    const y = x.mul(3).detach();
    expect(y.requiresGrad).toBe(false);
    x.mul(y).sum().backward();
    expect(await list(x.grad)).toEqual([3, 6]);
    expect(x.detach().storage).toBe(x.storage);
  });

  test("a frozen bf16 weight passes the gradient on", async () => {
    const weight = tensor([[1, 2, 3]], { dtype: "bf16" });
    const x = tensor([[1, 1, 1]], { requiresGrad: true });
    linear(x, weight).sum().backward();
    expect(await list(x.grad)).toEqual([1, 2, 3]);
  });

  test("a gradient goes back through a change of type in the type it came from", async () => {
    const x = tensor([1, 2], { requiresGrad: true });
    x.to("f64").mul(x.to("f64")).sum().backward();
    expect(x.grad!.dtype).toBe("f32");
    expect(await list(x.grad)).toEqual([2, 4]);
    const y = tensor([1.7], { requiresGrad: true });
    expect(() => y.to("i32").sum().backward()).not.toThrow();
    expect(y.grad).toBeUndefined();
  });
});

describe("where", () => {
  test("no NaN comes from the side that was not taken", async () => {
    const x = leaf([-1, 0, 4]);
    const positive = x.gt(0);
    where(positive, where(positive, x, zeros([3], { dtype: "f64" })).sqrt(), x)
      .sum()
      .backward();
    expect(await list(x.grad)).toEqual([1, 1, 0.25]);
    const y = leaf([NaN, 2]);
    where(tensor([0, 1], { dtype: "f64" }), y, zeros([2], { dtype: "f64" }))
      .sum()
      .backward();
    expect(await list(y.grad)).toEqual([0, 1]);
  });
});

describe("checkpoint", () => {
  const key = { seed: [1, 2], stream: 3 } as const;
  const segments = [{ query: 0, queries: 3, key: 0, keys: 3 }];
  /** A block with everything that could go differently the second time. */
  function block(weight: Tensor, norm: Tensor) {
    return (x: Tensor): Tensor => {
      const h = linear(rmsNorm(x, norm, 1e-6), weight).reshape(3, 2, 2);
      const mixed = attention(h, h, h, segments).reshape(3, 4);
      return x.add(dropout(mixed, 0.5, key));
    };
  }
  async function run(wrap: (body: (x: Tensor) => Tensor, x: Tensor) => Tensor): Promise<number[][]> {
    const ramp = (shape: number[], by: number): Tensor =>
      Tensor.from(
        Array.from({ length: shape.reduce((a, b) => a * b) }, (_, i) => Math.sin(by * i)),
        shape,
        {
          dtype: "f64",
          requiresGrad: true,
        },
      );
    const [x, weight, norm, head] = [ramp([3, 4], 1), ramp([4, 4], 2), ramp([4], 3), ramp([5, 4], 4)];
    const body = block(weight, norm);
    const loss = scope(() => {
      const h = wrap(body, wrap(body, x.mul(1)));
      const targets = tensor([1, 0, 4], { dtype: "i32" });
      const value = linearCrossEntropy(h, head, targets, tensor([1, 1, 1], { dtype: "f64" }));
      value.backward();
      return value;
    });
    return [await list(loss), ...(await Promise.all([x, weight, norm, head].map((t) => list(t.grad))))];
  }

  test("gives the plain run's loss and gradients, bit for bit", async () => {
    expect(await run((body, x) => checkpoint(body, x))).toEqual(await run((body, x) => body(x)));
  });

  test("keeps its inputs alone", () => {
    const x = leaf([1, 2, 3]);
    const body = (t: Tensor): Tensor => t.exp().sin().tanh();
    const held = (make: () => Tensor): number => {
      const before = memory().storages;
      const y = scope(make);
      const n = memory().storages - before;
      scope(() => y.sum().backward());
      y.dispose();
      return n;
    };
    expect(held(() => checkpoint(body, x))).toBe(1);
    expect(held(() => body(x))).toBeGreaterThan(2);
  });

  test("works with several inputs, one of them frozen, and inside another", async () => {
    const [a, b] = [leaf([1, 2]), tensor([3, 4], { dtype: "f64" })];
    const inner = (x: Tensor, y: Tensor): Tensor => x.mul(y);
    checkpoint((x, y) => checkpoint(inner, x, y).exp(), a, b.mul(0.1))
      .sum()
      .backward();
    const want = [0.3 * Math.exp(0.3), 0.4 * Math.exp(0.8)];
    (await list(a.grad)).forEach((g, i) => {
      expect(g).toBeCloseTo(want[i], 12);
    });
  });

  test("records nothing in noGrad", () => {
    const x = leaf([1]);
    expect(noGrad(() => checkpoint((t) => t.exp(), x)).requiresGrad).toBe(false);
  });
});
