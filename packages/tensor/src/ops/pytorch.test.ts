// Every operation against PyTorch's numbers: fixtures/pytorch_ops.json, written by fixtures/pytorch_ops.py, whose cases have
// the same names and inputs. In f64 on the reference device, and in f32 on the compiled one.
import { afterAll, describe, expect, test } from "bun:test";
import fixture from "../../fixtures/pytorch_ops.json" with { type: "json" };
import { createDevice, type Device, Tensor, tensor } from "../index.ts";
import { type Shape, sizeOf } from "../shape.ts";
import * as ops from "./index.ts";

type Case = keyof typeof fixture.cases;
type Numbers = readonly (number | string)[];
interface Expected {
  readonly inputs: readonly Shape[];
  readonly shape: Shape;
  readonly value: Numbers;
  readonly grads?: readonly (Numbers | null)[];
}
/** Makes constants of the type and on the device that the case runs with. */
interface Make {
  (values: Parameters<typeof tensor>[0]): Tensor;
  i32(values: Parameters<typeof tensor>[0]): Tensor;
}

const { NaN: nan, POSITIVE_INFINITY: inf } = Number;
const SPECIAL = [
  [3, nan, 1, 3, -inf, 1],
  [inf, 2, 2, -0, 0, nan],
];
const targets = (make: Make): Tensor => make.i32([3, -100, 0, 1]);
const classWeight = (make: Make): Tensor => make([0.5, 2, 1, 0.25]);
const einsum =
  (equation: string) =>
  (_: Make, ...x: Tensor[]): Tensor =>
    ops.einsum(equation, ...x);
const crossEntropy =
  (reduction: ops.Reduction) =>
  (make: Make, x: Tensor): Tensor =>
    ops.crossEntropy(x, targets(make), { weight: classWeight(make), reduction, labelSmoothing: 0.2 });
const bceWithLogits =
  (reduction: ops.Reduction) =>
  (_: Make, x: Tensor): Tensor =>
    ops.bceWithLogitsLoss(x.mul(10), x.gt(0.3), { reduction });

const CASES: { readonly [K in Case]: (make: Make, ...x: Tensor[]) => Tensor } = {
  log1p: (_, x) => x.abs().log1p(),
  expm1: (_, x) => x.expm1(),
  log2: (_, x) => x.abs().add(1).log2(),
  log10: (_, x) => x.abs().add(1).log10(),
  exp2: (_, x) => ops.exp2(x),
  tan: (_, x) => ops.tan(x),
  sinh: (_, x) => ops.sinh(x),
  cosh: (_, x) => ops.cosh(x),
  reciprocal: (_, x) => x.add(3).reciprocal(),
  trunc: (_, x) => x.trunc(),
  frac: (_, x) => ops.frac(x),
  clamp: (_, x) => x.clamp(-1, 0.5),
  clampMin: (_, x) => x.clamp(0.2),
  clampMax: (_, x) => x.clamp(undefined, 0.2),
  geluTanh: (_, x) => x.gelu({ approximate: "tanh" }),
  leakyRelu: (_, x) => ops.leakyRelu(x, 0.1),
  elu: (_, x) => ops.elu(x, 1.5),
  selu: (_, x) => ops.selu(x),
  softplus: (_, x) => ops.softplus(x, 2),
  logSigmoid: (_, x) => ops.logSigmoid(x),
  softsign: (_, x) => ops.softsign(x),
  mish: (_, x) => ops.mish(x),
  relu6: (_, x) => ops.relu6(x.mul(4)),
  hardSigmoid: (_, x) => ops.hardSigmoid(x.mul(2)),
  hardSwish: (_, x) => ops.hardSwish(x.mul(2)),
  glu: (_, x) => ops.glu(x, 0),
  maskedFill: (_, x) => x.maskedFill(x.gt(0.5), 7),
  remainder: (_, x) => x.remainder(-0.7),
  fmod: (_, x) => ops.fmod(x, -0.7),
  lerp: (_, a, b) => ops.lerp(a, b, 0.3),

  variance: (_, x) => x.var(1),
  "variance of all": (_, x) => x.var(undefined, { correction: 0 }),
  std: (_, x) => x.std([0, 2], { keepdim: true }),
  "norm 0": (_, x) => x.norm(0, 1),
  "norm 1": (_, x) => x.norm(1, 1),
  "norm 2": (_, x) => x.norm(2, 1),
  "norm 3": (_, x) => x.norm(3, 1),
  "norm 0.5": (_, x) => x.norm(0.5, 1),
  "norm inf": (_, x) => x.norm(inf, 1),
  "norm -inf": (_, x) => x.norm(-inf, 1),
  "norm of zeros": (_, x) => x.mul(0).norm(),
  normalize: (_, x) => ops.normalize(x),
  cosineSimilarity: (_, a, b) => ops.cosineSimilarity(a, b),
  logsumexp: (_, x) => x.logsumexp([0, 1]),
  "logsumexp of infinities": (make, x) => x.add(make([inf, 0, -inf])).logsumexp(0),
  prod: (_, x) => x.prod(1),
  "prod with zeros": (make, x) =>
    x
      .mul(
        make([
          [0, 1, 1],
          [0, 1, 0],
        ]),
      )
      .prod(1),
  cumsum: (_, x) => x.cumsum(1),
  cumprod: (make, x) => x.mul(make([1, 1, 0, 1, 1])).cumprod(1),
  max: (_, x) => x.max(1).values,
  min: (_, x) => x.min(0).values,
  ties: (_, x) => x.sub(x.detach()).max(1).values,
  median: (_, x) => ops.median(x, 1).values,
  cdist: (_, a, b) => ops.cdist(a, b),

  "sort False": (make) => make(SPECIAL).sort(1).values,
  "argsort False": (make) => make(SPECIAL).argsort(1),
  "sort True": (make) => make(SPECIAL).sort(1, { descending: true }).values,
  "argsort True": (make) => make(SPECIAL).argsort(1, { descending: true }),
  sort: (_, x) => x.sort(0).values,
  topk: (_, x) => x.topk(2, 0).values,
  "topk smallest": (_, x) => x.topk(3, 1, false).values,

  gather: (make, x) =>
    x.gather(
      1,
      make.i32([
        [2, 0],
        [1, 1],
      ]),
    ),
  scatter: (make, x, s) =>
    x.scatter(
      0,
      make.i32([
        [2, 0],
        [1, 2],
      ]),
      s,
    ),
  scatterAdd: (make, x, s) =>
    x.scatterAdd(
      0,
      make.i32([
        [2, 0],
        [2, 0],
      ]),
      s,
    ),
  indexSelect: (make, x) => x.indexSelect(1, make.i32([2, 0, 2])),
  at: (_, x) => x.at(1, "1:4:2", "...", null, -1),
  "at, from the end": (_, x) => x.at(-1, ":-2", "1:"),
  "at with a tensor": (make, x) =>
    x.at(
      ":",
      make.i32([
        [0, -1],
        [1, 0],
      ]),
    ),
  flip: (_, x) => x.flip([0, 2]),
  roll: (_, x) => x.roll(-2, 1),
  tril: (_, x) => x.tril(-1),
  triu: (_, x) => x.triu(1),
  diagonal: (_, x) => x.diagonal(-1, 0, 2),
  diag: (_, x) => ops.diag(x, 1),
  repeat: (_, x) => x.repeat(2, 1, 3),
  repeatInterleave: (_, x) => ops.repeatInterleave(x, 2, 1),
  unfold: (_, x) => x.unfold(1, 3, 2),
  pad: (_, x) => ops.pad(x, [1, 2, 0, 1], 5),
  movedim: (_, x) => x.movedim(0, -1),
  split: (_, x) => x.split([1, 3], 1)[1].mul(x.chunk(3, 1)[1].shape[1]),

  "einsum ij,jk->ik": einsum("ij,jk->ik"),
  "einsum bij,bjk": einsum("bij,bjk"),
  "einsum ii->": einsum("ii->"),
  "einsum ii->i": einsum("ii->i"),
  "einsum ij->ji": einsum("ij->ji"),
  "einsum i,j->ij": einsum("i,j->ij"),
  "einsum ...ij,...kj->...ik": einsum("...ij,...kj->...ik"),
  "einsum bhqd,bhkd->bhqk": einsum("bhqd,bhkd->bhqk"),
  "einsum ab,bc,cd,da->": einsum("ab,bc,cd,da->"),
  "einsum ij,ij->": einsum("ij,ij->"),
  "einsum b...->...": einsum("b...->..."),
  "einsum iij,jk->ki": einsum("iij,jk->ki"),
  "einsum bi,oij,bj->bo": einsum("bi,oij,bj->bo"),
  "einsum ij,kj": einsum("ij,kj"),
  "einsum ba,b": einsum("ba,b"),
  conv1d: (_, x, w, b) => ops.conv1d(x, w, b, { stride: 2, padding: 1 }),
  "conv1d same": (_, x, w) => ops.conv1d(x, w, undefined, { padding: "same", dilation: 3 }),
  conv2d: (_, x, w, b) => ops.conv2d(x, w, b, { stride: [2, 1], padding: [1, 2], dilation: [1, 2] }),
  "conv2d in groups": (_, x, w) => ops.conv2d(x, w, undefined, { groups: 2 }),
  "conv2d by channel": (_, x, w) => ops.conv2d(x, w, undefined, { groups: 3, padding: 1 }),
  maxPool1d: (_, x) => ops.maxPool1d(x, 3, { stride: 1, padding: 1 }),
  maxPool2d: (_, x) => ops.maxPool2d(x, 2),
  "maxPool2d of equals": (_, x) => ops.maxPool2d(x.sub(x.detach()), 2),
  "maxPool2d, overlapping": (_, x) => ops.maxPool2d(x, [3, 2], { stride: [2, 1], padding: [1, 0], dilation: [1, 2] }),
  avgPool1d: (_, x) => ops.avgPool1d(x, 2),
  avgPool2d: (_, x) => ops.avgPool2d(x, 3, { stride: 2, padding: 1 }),
  "avgPool2d without padding": (_, x) => ops.avgPool2d(x, 3, { stride: 2, padding: 1, countIncludePad: false }),
  adaptiveAvgPool2d: (_, x) => ops.adaptiveAvgPool2d(x, [3, 2]),

  layerNorm: (_, x, w, b) => ops.layerNorm(x, [4], w, b),
  "layerNorm over two": (_, x) => ops.layerNorm(x, [3, 4], undefined, undefined, 1e-3),
  groupNorm: (_, x, w, b) => ops.groupNorm(x, 2, w, b),
  batchNorm: (_, x, m, v, w, b) => ops.batchNorm(x, m.detach(), v.detach().exp(), w, b),
  attention: (_, q, k, v) => ops.scaledDotProductAttention(q, k, v),
  "attention, causal": (_, q, k, v) => ops.scaledDotProductAttention(q, k, v, { causal: true }),
  "attention, masked": (make, q, k, v) => {
    const mask = make.i32([
      [1, 0, 1],
      [1, 1, 0],
    ]);
    return ops.scaledDotProductAttention(q, k, v, { mask, scale: 0.5 });
  },
  "attention, with a bias": (_, q, k, v, mask) => ops.scaledDotProductAttention(q, k, v, { mask }),

  "crossEntropy mean": crossEntropy("mean"),
  "crossEntropy sum": crossEntropy("sum"),
  "crossEntropy none": crossEntropy("none"),
  "bceWithLogits mean": bceWithLogits("mean"),
  "bceWithLogits sum": bceWithLogits("sum"),
  "bceWithLogits none": bceWithLogits("none"),
  "crossEntropy of pictures": (make, x) => {
    const places = make.i32([
      [0, 2],
      [1, 1],
    ]);
    return ops.crossEntropy(x, places, { ignoreIndex: 1 });
  },
  nllLoss: (make, x) => ops.nllLoss(x.logSoftmax(1), targets(make), { weight: classWeight(make) }),
  mseLoss: (_, a, b) => ops.mseLoss(a, b, { reduction: "sum" }),
  l1Loss: (_, a, b) => ops.l1Loss(a, b),
  huberLoss: (_, a, b) => ops.huberLoss(a, b, { delta: 0.7 }),
  smoothL1Loss: (_, a, b) => ops.smoothL1Loss(a, b, { beta: 0.7 }),
  bceLoss: (_, x) => ops.bceLoss(x.sigmoid(), x.gt(0.3)),
  "bceLoss at its ends": (make) => ops.bceLoss(make([0, 1, 0, 1]), make([0, 1, 1, 0]), { reduction: "none" }),
  klDivLoss: (make, x) => {
    const target = make([
      [0, 0.5, 0.5],
      [0.2, 0.3, 0.5],
    ]);
    return ops.klDivLoss(x.logSoftmax(1), target, { reduction: "batchmean" });
  },
  "klDivLoss of logarithms": (_, a, b) => ops.klDivLoss(a, b, { logTarget: true, reduction: "sum" }),
};

/** The numbers that pytorch_ops.py's `fill` makes. */
function fill(shape: Shape, seed: number): number[] {
  return Array.from({ length: sizeOf(shape) }, (_, i) => ((37 * i + 11 * seed) % 41) / 10 - 2);
}

async function near(got: Tensor, want: Numbers, tolerance: number, what: string): Promise<void> {
  const values = await got.data();
  expect(values.length).toBe(want.length);
  for (const [i, number] of want.entries()) {
    const w = typeof number === "string" ? Number(number.replace("inf", "Infinity")) : number;
    const same = Number.isFinite(w)
      ? Math.abs(values[i] - w) <= tolerance * (1 + Math.abs(w))
      : Object.is(values[i], w);
    if (!same) throw new Error(`${what}, element ${i} is ${values[i]}, PyTorch has ${number}`);
  }
}

const cpu = await createDevice("cpu", { threads: 1 });
const reference = await createDevice("reference");
afterAll(() => cpu.dispose());

/** In f32 a remainder that ends on the divisor falls to either side. */
const ONLY_F64: readonly string[] = ["remainder", "fmod"];

/** PyTorch takes 1/6 in f32 there, whatever the tensor's type. */
const ROUNDED_BY_PYTORCH: readonly string[] = ["hardSigmoid"];

const RUNS: readonly { device: Device; dtype: "f64" | "f32"; tolerance: number }[] = [
  { device: reference, dtype: "f64", tolerance: 1e-12 },
  { device: cpu, dtype: "f32", tolerance: 1e-5 },
];

for (const { device, dtype, tolerance: usual } of RUNS) {
  describe(`values and gradients are PyTorch's, ${dtype} on ${device.info.name}:`, () => {
    const make: Make = Object.assign((values: Parameters<typeof tensor>[0]) => tensor(values, { dtype, device }), {
      i32: (values: Parameters<typeof tensor>[0]) => tensor(values, { dtype: "i32", device }),
    });
    for (const [name, run] of Object.entries(CASES)) {
      if (dtype === "f32" && ONLY_F64.includes(name)) continue;
      const { inputs, shape, value, grads } = fixture.cases[name as Case] as Expected;
      const tolerance = ROUNDED_BY_PYTORCH.includes(name) ? Math.max(usual, 1e-7) : usual;
      test(name, async () => {
        const leaves = inputs.map((size, i) => {
          return Tensor.from(fill(size, i + 1), size, { dtype, device, requiresGrad: true });
        });
        const y = run(make, ...leaves);
        expect(y.shape).toEqual(shape);
        await near(y, value, tolerance, "value");
        if (!grads) return;
        if (!y.requiresGrad) {
          // PyTorch has a gradient of 0 where ours says that none flows.
          expect(grads.flat().every((g) => g === null || Number(g) === 0)).toBe(true);
          return;
        }
        y.backward(Tensor.from(fill(shape, 99), shape, { dtype, device }));
        for (const [i, grad] of grads.entries()) {
          if (grad === null) expect(leaves[i].grad).toBeUndefined();
          else if (leaves[i].grad) await near(leaves[i].grad, grad, tolerance, `gradient ${i}`);
          else expect(grad.every((g) => Number(g) === 0)).toBe(true);
        }
      });
    }
  });
}

test("log1p, expm1 and sinh keep their digits near 0", async () => {
  const sizes = Array.from({ length: 60 }, (_, i) => 10 ** (-0.2 * i));
  const values = [...sizes, ...sizes.map((v) => -v * 0.9)];
  const x = tensor(values, { dtype: "f64" });
  for (const [name, op] of Object.entries({ log1p: ops.log1p, expm1: ops.expm1, sinh: ops.sinh })) {
    const got = await op(x).data();
    values.forEach((v, i) => {
      const want = Math[name as "log1p"](v);
      if (!(Math.abs(got[i] - want) <= 4e-15 * Math.abs(want)))
        throw new Error(`${name}(${v}) is ${got[i]}, not ${want}`);
    });
  }
});
