import { describe, expect, test } from "bun:test";
import {
  customOp,
  GradientError,
  gradCheck,
  memory,
  noGrad,
  ShapeError,
  scope,
  softmax,
  type Tensor,
  tensor,
} from "../index.ts";

const cube = customOp("cube", {
  forward(context, [x]) {
    context.save(x);
    return x.mul(x).mul(x);
  },
  backward: ({ saved: [x] }, grad) => x.square().mul(3).mul(grad),
});

const scaledSum = customOp<{ factor: number }>("scaledSum", {
  forward(context, [a, b], { factor }) {
    if (a.rank !== 1) throw new ShapeError("scaledSum", "needs vectors");
    context.save(b);
    return a.add(b).mul(factor);
  },
  backward: ({ needs }, grad, { factor }) => [grad.mul(factor), needs[1] ? grad.mul(factor) : undefined],
});

const leaf = (values: number[]): Tensor => tensor(values, { requiresGrad: true });

describe("customOp", () => {
  test("computes, and sends back the gradient that it is told", async () => {
    const x = leaf([1, -2]);
    const y = cube(x);
    expect(await y.tolist()).toEqual([1, -8]);
    y.sum().backward();
    expect(await x.grad?.tolist()).toEqual([3, 12]);
  });

  test("of several inputs, with arguments, and some that need no gradient", async () => {
    const [a, b] = [leaf([1, 2]), tensor([3, 4])];
    const y = scaledSum([a, b], { factor: 10 });
    expect(await y.tolist()).toEqual([40, 60]);
    y.sum().backward();
    expect(await a.grad?.tolist()).toEqual([10, 10]);
    expect(b.grad).toBeUndefined();
    expect(() => scaledSum([tensor(1), b], { factor: 1 })).toThrow("[scaledSum] needs vectors");
  });

  test("records nothing inside, and nothing at all without a gradient", () => {
    const seen: boolean[] = [];
    const look = customOp("look", {
      forward(_, [x]) {
        const y = x.mul(2);
        seen.push(y.requiresGrad);
        return y;
      },
      backward: (_, grad) => grad.mul(2),
    });
    expect(look(leaf([1])).requiresGrad).toBe(true);
    expect(noGrad(() => look(leaf([1]))).requiresGrad).toBe(false);
    expect(look(tensor([1])).requiresGrad).toBe(false);
    expect(seen).toEqual([false, false, false]);
  });

  test("an input handed on as it is stays itself", async () => {
    const doubled = customOp("passOn", { forward: (_, [x]) => x, backward: (_, grad) => grad.mul(-1) });
    const x = leaf([1, 2]);
    const y = doubled(x);
    expect(y).not.toBe(x);
    y.sum().backward();
    expect(await x.grad?.tolist()).toEqual([-1, -1]);
  });

  test("keeps no memory after the backward pass, nor where forward fails", () => {
    const before = memory().storages;
    scope(() => {
      const x = leaf([1, 2]);
      cube(x).sum().backward();
      const broken = customOp("broken", {
        forward(context, [t]) {
          context.save(t.mul(2));
          throw new ShapeError("broken", "on purpose");
        },
        backward: (_, grad) => grad,
      });
      expect(() => broken(x)).toThrow("[broken] on purpose");
    });
    expect(memory().storages).toBeLessThanOrEqual(before);
  });

  test("gradients of another number, shape or type are refused", () => {
    const giving = (grads: (grad: Tensor) => Tensor | (Tensor | undefined)[]) => () => {
      const op = customOp("wrong", { forward: (_, [x]) => x.mul(2), backward: (_, grad) => grads(grad) });
      op(leaf([1, 2]))
        .sum()
        .backward();
    };
    expect(giving((g) => [g, g])).toThrow(new GradientError("wrong", "backward gives 2 gradients for 1 inputs"));
    expect(giving((g) => g.sum())).toThrow(
      new GradientError("wrong", "backward gives a gradient of [] f32 to input 0, which is [2] f32"),
    );
    expect(giving((g) => g.to("f64"))).toThrow("a gradient of [2] f64 to input 0, which is [2] f32");
  });
});

describe("gradCheck", () => {
  test("passes what is right: of any type, shape and number of inputs", async () => {
    await gradCheck(cube, [tensor([0.5, -1, 2])]);
    await gradCheck((x, w) => softmax(x.matmul(w)), [tensor([[1, 2]]), tensor([[0.5], [1]]).mul(tensor([[1, -1]]))]);
    await gradCheck((x, i) => x.indexSelect(1, i), [tensor([[1, 2, 3]]), tensor([2, 2], { dtype: "i32" })]);
    await gradCheck((x) => x.sum(), [tensor(3)]);
  });

  test("names the element whose gradient is wrong", async () => {
    const wrong = customOp("wrong", {
      forward: (_, [x]) => x.square(),
      backward: (_, grad) => grad.mul(tensor([2, 5], { dtype: "f64" })),
    });
    await expect(gradCheck(wrong, [tensor([1, 2])])).rejects.toThrow(
      /\[gradCheck\] input 0 of shape \[2\], element 1: backward gives [\d.]+, differences [\d.]+/,
    );
    await expect(gradCheck(wrong, [tensor([1, 2])])).rejects.toBeInstanceOf(GradientError);
  });

  test("an error in one element of the last input, and a gradient that is missing", async () => {
    const half = customOp("half", {
      forward: (_, [a, b]) => a.mul(b),
      backward: ({ saved: _ }, grad) => [undefined, grad.mul(0)],
    });
    await expect(gradCheck((a, b) => half([a, b]), [tensor([1]), tensor([2])])).rejects.toThrow("input 0 of shape [1]");
  });

  test("checks only the inputs that require a gradient, where any does", async () => {
    const one = customOp("one", {
      forward(context, [a, b]) {
        context.save(b);
        return a.mul(b);
      },
      backward: ({ saved: [b] }, grad) => [grad.mul(b), undefined],
    });
    await gradCheck((a, b) => one([a, b]), [leaf([1]), tensor([2])]);
  });

  test("says what it cannot check", async () => {
    const none = gradCheck((x) => x, [tensor([1], { dtype: "i32" })]);
    await expect(none).rejects.toThrow("[gradCheck] no input is of floating type");
    await expect(gradCheck((x) => x.detach(), [tensor([1])])).rejects.toThrow("no input's gradient flows");
    await expect(gradCheck((x) => x.to("f32"), [tensor([1])])).rejects.toThrow("not f64 on the reference device");
  });

  test("frees what it makes", async () => {
    const x = tensor([1, 2]);
    const before = memory().storages;
    await gradCheck(cube, [x]);
    expect(memory().storages).toBeLessThanOrEqual(before);
  });
});
