import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import {
  AdamW,
  clipGradNorm,
  Generator,
  Linear,
  Module,
  memory,
  mseLoss,
  noGrad,
  openScope,
  parameter,
  resetPeakMemory,
  scope,
  type Tensor,
  TensorError,
  tensor,
  zeros,
} from "./index.ts";

// Tensors of other test files may still be collected, so counts may fall by themselves; they must not grow.
let before = memory();
beforeEach(async () => {
  for (let last = -1; last !== memory().storages; await new Promise((resolve) => setTimeout(resolve, 1))) {
    last = memory().storages;
    Bun.gc(true);
  }
  before = memory();
});
/** Storages that were made since the test began and still live. */
const grown = (): number => memory().storages - before.storages;

describe("openScope", () => {
  afterEach(() => expect(grown()).toBeLessThanOrEqual(0));

  test("frees with its block what was not kept", async () => {
    const make = (): Tensor => {
      using inner = openScope();
      const x = tensor([1, 2]);
      x.exp();
      return inner.keep(x.mul(2));
    };
    const kept = make();
    expect(grown()).toBe(1);
    expect([...(await kept.data())]).toEqual([2, 4]);
    kept.dispose();
  });

  test("hands what is kept to the scope around it", () => {
    scope(() => {
      using inner = openScope();
      inner.keep(tensor([1]));
      tensor([2]);
      inner.end();
      inner.end();
      expect(grown()).toBe(1);
      tensor([3]);
      expect(grown()).toBe(2);
    });
  });

  test("frees when the block is left by an error", () => {
    expect(() => {
      using _ = openScope();
      tensor([1]);
      throw new Error("on purpose");
    }).toThrow("on purpose");
  });

  test("ends scopes inside it that were forgotten, and one that ends late leaves the others alone", () => {
    const outer = openScope();
    const forgotten = openScope();
    tensor([1]);
    outer.end();
    expect(grown()).toBe(0);
    scope(() => {
      const x = tensor([2]);
      forgotten.end();
      expect(x.disposed).toBe(false);
    });
  });
});

describe("scope", () => {
  afterEach(() => expect(grown()).toBeLessThanOrEqual(0));

  test("frees what was made in it, and hands on what it returns", async () => {
    const [a, { b }, rest] = scope(() => {
      const x = tensor([1, 2]);
      const y = x.mul(2);
      y.exp();
      return [x, { b: [y] }, "text"] as const;
    });
    expect(grown()).toBe(2);
    expect(rest).toBe("text");
    expect([...(await b[0].data())]).toEqual([2, 4]);
    for (const t of [a, ...b]) t.dispose();
  });

  test("hands results to the scope around it", () => {
    const kept = scope(() => {
      const inner = scope(() => [tensor([1]), tensor([2])]);
      expect(grown()).toBe(2);
      return inner[0];
    });
    expect(grown()).toBe(1);
    kept.dispose();
  });

  test("frees when its body throws", () => {
    expect(() =>
      scope(() => {
        tensor([1]).mul(2);
        throw new Error("inside");
      }),
    ).toThrow("inside");
  });

  test("keep() takes a tensor out, from any depth", () => {
    let kept: Tensor | undefined;
    scope(() => {
      const outer = tensor([1]);
      scope(() => {
        kept = outer.keep();
        tensor([2]);
      });
    });
    expect(grown()).toBe(1);
    kept!.dispose();
  });

  test("a view holds the memory that it shows", async () => {
    const view = scope(() => tensor([1, 2, 3]).slice(0, 1));
    expect([...(await view.data())]).toEqual([2, 3]);
    view.dispose();
  });

  test("operations that are not recorded keep nothing", () => {
    const [x, w] = [tensor([[1, 2]], { requiresGrad: true }), tensor([[1], [2]])];
    const made = grown();
    scope(() => noGrad(() => x.mul(x).matmul(w).exp())).dispose();
    scope(() => w.mul(w).amax()).dispose();
    expect(grown()).toBe(made);
    for (const t of [x, w]) t.dispose();
  });

  test("a parameter made inside outlives it", () => {
    const p = scope(() => parameter(() => zeros([2]).add(1)));
    expect(grown()).toBe(1);
    expect(p.requiresGrad).toBe(true);
    p.dispose();
  });

  test("refuses a body that waits", () => {
    expect(() => scope(async () => 1)).toThrow("scope(): the body must be synchronous; await data() outside of it");
  });

  test("`using` frees at the end of the block", () => {
    {
      using t = tensor([1]);
      expect(t.disposed).toBe(false);
      expect(grown()).toBe(1);
    }
  });

  test("a freed tensor is named when it is used, and may be freed again", async () => {
    const t = tensor([[1, 2]]);
    t.dispose();
    t.dispose();
    expect(() => t.exp()).toThrow(TensorError);
    expect(() => t.exp()).toThrow("[exp] an input of shape [1,2] was freed; keep() it, or return it from its scope");
    await expect(t.data()).rejects.toThrow("[data] the tensor of shape [1,2] was freed");
  });
});

test("counts storages, bytes and their peak", () => {
  resetPeakMemory();
  const a = zeros([1000]);
  const b = zeros([500]);
  expect(memory().bytes - before.bytes).toBe(6000);
  a.dispose();
  expect(memory().bytes - before.bytes).toBe(2000);
  expect(memory().peakBytes - before.bytes).toBe(6000);
  b.dispose();
  expect(memory().bytes).toBe(before.bytes);
});

test("tensors that are dropped are freed by the garbage collector in the end", async () => {
  for (let i = 0; i < 50; i++) zeros([10]).add(1);
  for (let i = 0; i < 20 && grown() > 2; i++) {
    Bun.gc(true);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  expect(grown()).toBeLessThan(20);
});

class Xor extends Module {
  hidden: Linear;
  out: Linear;
  constructor(random: Generator) {
    super();
    this.hidden = Linear.init(2, 8, random);
    this.out = Linear.init(8, 1, random);
  }
  forward(x: Tensor): Tensor {
    return this.out.forward(this.hidden.forward(x).tanh());
  }
}

test("1,000 training steps learn XOR and leave the memory as the second step did", async () => {
  const model = new Xor(new Generator(1));
  const optimizer = new AdamW(model.parameters(), { lr: 0.02 });
  const x = tensor([
    [0, 0],
    [0, 1],
    [1, 0],
    [1, 1],
  ]);
  const y = tensor([[0], [1], [1], [0]]);
  let [first, last] = [0, 0];
  let afterSecond = memory();
  for (let step = 0; step < 1000; step++) {
    const loss = scope(() => {
      const value = mseLoss(model.forward(x), y);
      value.backward();
      optimizer.step(clipGradNorm(model.parameters(), 1).gradScale);
      optimizer.zeroGrad();
      return value;
    });
    last = await loss.item();
    loss.dispose();
    if (step === 0) {
      first = last;
      resetPeakMemory();
    } else if (step === 1) afterSecond = memory();
  }
  expect(first).toBeGreaterThan(0.1);
  expect(last).toBeLessThan(1e-4);
  expect(memory().storages).toBeLessThanOrEqual(afterSecond.storages);
  expect(memory().bytes).toBeLessThanOrEqual(afterSecond.bytes);
  expect(memory().peakBytes).toBeLessThanOrEqual(afterSecond.peakBytes);
  optimizer.dispose();
  for (const t of [x, y]) t.dispose();
  model.dispose();
  expect(grown()).toBeLessThanOrEqual(0);
}, 60_000);
