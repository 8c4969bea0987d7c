/**
 * AVX-512 code against AVX2 code: the same kernels over the same memory, on this processor where it has AVX-512 and on an
 * emulated one. Scenes are prepared and run natively at once, on the emulator all together in one boot.
 */
import { test } from "bun:test";
import { Program } from "../../../expr/program.ts";
import { adamWKernel } from "../kernels/adamw.ts";
import { attention, attentionWorkspaceBytes } from "../kernels/attention.ts";
import {
  attentionBackwardKeys,
  attentionBackwardQueries,
  attentionBackwardWorkspaceBytes,
} from "../kernels/attention-gradients.ts";
import { keyBlock } from "../kernels/attention-parts.ts";
import { softmaxBlockKernel, softmaxGradKernel } from "../kernels/cross-entropy.ts";
import { dropoutKernel } from "../kernels/dropout.ts";
import { elementwiseKernel } from "../kernels/elementwise.ts";
import { gemm, gemmWorkspaceBytes, packA, packATransposed, planGemm } from "../kernels/gemm.ts";
import { gemv } from "../kernels/gemv.ts";
import { rmsNormBackwardKernel, rmsNormKernel, rmsNormWeightGradKernel } from "../kernels/norm.ts";
import { DROPOUT_WORDS, writeDropout } from "../kernels/philox.ts";
import { columnKernel, rowKernel } from "../kernels/reduce.ts";
import { ropeKernel } from "../kernels/rope.ts";
import { avx2, avx512, fill, type Machine, type Memory, toBf16 } from "../kernels/testing.ts";
import { exp, log, tanh } from "../kernels/vector-math.ts";
import { defineKernel } from "../lang/kernel.ts";
import { AVX512 } from "../lang/target.ts";
import type { VF } from "../lang/values.ts";
import { haveBochs } from "./bochs.ts";
import { EmulatedMachine } from "./emulated-machine.ts";

if (!haveBochs) console.warn("SKIPPED: bochs is not here, so AVX-512 is not emulated");
if (!avx512) console.warn("SKIPPED: this processor has no AVX-512, so its kernels run on the emulator at most");

/** Prepares memory, makes calls; the memories that hold results. */
type Scene = (machine: Machine) => Memory[];

let seed = 0;
function floats(machine: Machine, n: number): Memory {
  const memory = machine.allocate(4 * n);
  fill(memory.f32, ++seed);
  return memory;
}

function workspace(machine: Machine, bytes: number): { slots: number; workspace: number } {
  return { slots: machine.allocate(4).address, workspace: machine.allocate(bytes).address };
}

const EXACT: Record<string, Scene> = {};
const CLOSE: Record<string, Scene> = {};

for (const element of ["f32", "bf16"] as const) {
  for (const form of ["nn", "nt"] as const) {
    for (const [m, n, k] of [
      [25, 70, 300],
      [1, 33, 7],
      [12, 64, 256],
    ] as const) {
      EXACT[`gemm ${element} ${form} ${m}x${n}x${k}`] = (machine) => {
        const { target } = machine;
        const a = floats(machine, m * k);
        const values = fill(new Float32Array(n * k), ++seed);
        const b = machine.allocate(n * k * (element === "bf16" ? 2 : 4));
        if (element === "bf16") b.u16.set(toBf16(values));
        else b.f32.set(values);
        const c = floats(machine, m * n);
        const plan = planGemm(target, m, n, k, 1);
        const packed = machine.allocate(plan.packedBytes);
        const transposed = form === "nn";
        machine.compile(transposed ? packATransposed : packA)(
          { a: a.address, packed: packed.address, m, k, lda: transposed ? m : k, tiles: plan.tiles },
          0,
          plan.tiles,
        );
        machine.compile(gemm[element][form])(
          {
            ...{ packed: packed.address, b: b.address, c: c.address, source: c.address, sourceRow: 4 * n },
            ...{ sourceColumn: 1, alpha: 0.5, m, n, k, tiles: plan.tiles, ldb: form === "nt" ? k : n, ldc: n },
            ...{
              byRows: plan.byRows ? 1 : 0,
              blockColumns: plan.blockColumns,
              ...workspace(machine, gemmWorkspaceBytes(target)),
            },
          },
          0,
          plan.items,
        );
        return [c];
      };
    }
  }
  for (const rows of [1, 2, 3, 4]) {
    CLOSE[`gemv ${element} of ${rows} rows`] = (machine) => {
      const [n, k] = [23, 301];
      const a = floats(machine, rows * k);
      const values = fill(new Float32Array(n * k), ++seed);
      const w = machine.allocate(n * k * (element === "bf16" ? 2 : 4));
      if (element === "bf16") w.u16.set(toBf16(values));
      else w.f32.set(values);
      const bias = floats(machine, n);
      const c = machine.allocate(4 * rows * n);
      machine.compile(gemv[element][rows - 1])(
        {
          ...{ a: a.address, w: w.address, c: c.address, source: bias.address, sourceRow: 0, sourceColumn: 1 },
          ...{ alpha: 1, k, lda: k, ldw: k, ldc: n },
        },
        0,
        n,
      );
      return [c];
    };
  }
}

CLOSE.attention = (machine) => {
  const [queries, heads, kvHeads, size] = [33, 4, 2, 32];
  const [q, grad] = [floats(machine, queries * heads * size), floats(machine, queries * heads * size)];
  const [k, v] = [floats(machine, queries * kvHeads * size), floats(machine, queries * kvHeads * size)];
  const like = (memory: Memory) => machine.allocate(memory.bytes);
  const [out, gradQ, gradK, gradV] = [like(q), like(q), like(k), like(v)];
  const [lse, delta] = [machine.allocate(4 * heads * queries), machine.allocate(4 * heads * queries)];
  const items = machine.allocate(4 * 5 * 4);
  items.i32.set([0, 20, 0, 1, 0, 0, 20, 0, 1, 1, 20, 13, 0, 21, 0, 20, 13, 0, 21, 1]);
  const common = {
    ...{ q: q.address, qRow: heads * size, qHead: size, k: k.address, kRow: kvHeads * size, kHead: size },
    ...{ v: v.address, vRow: kvHeads * size, vHead: size, headStride: queries, group: 2, size, scale: 0.3 },
  };
  const output = { out: out.address, outRow: heads * size, outHead: size };
  const forward = workspace(machine, attentionWorkspaceBytes(machine.target, size));
  machine.compile(attention)(
    {
      ...common,
      ...output,
      lse: lse.address,
      items: items.address,
      keyRows: 0,
      bias: 0,
      biasHead: 0,
      rotations: 0,
      rotationsRow: 0,
      ...forward,
    },
    0,
    4,
  );
  const backward = {
    ...{ ...common, grad: grad.address, gradRow: heads * size, gradHead: size, lse: lse.address },
    ...{ delta: delta.address, ...workspace(machine, attentionBackwardWorkspaceBytes(machine.target, size)) },
  };
  const toQ = { gradQ: gradQ.address, gradQRow: heads * size, gradQHead: size };
  machine.compile(attentionBackwardQueries)({ ...backward, ...output, ...toQ, items: items.address }, 0, 4);
  const blocks: number[] = [];
  for (let block = 0; block < queries; block += keyBlock(machine.target)) {
    for (let head = 0; head < kvHeads; head++) {
      blocks.push(0, queries, 0, 1, head, block, Math.min(block + keyBlock(machine.target), queries));
    }
  }
  const keyItems = machine.allocate(4 * blocks.length);
  keyItems.i32.set(blocks);
  const row = kvHeads * size;
  machine.compile(attentionBackwardKeys)(
    {
      ...{ ...backward, items: keyItems.address, chunkQueries: 20, gradK: gradK.address, gradKRow: row },
      ...{ gradKHead: size, gradV: gradV.address, gradVRow: row, gradVHead: size },
    },
    0,
    blocks.length / 7,
  );
  return [out, lse, gradQ, gradK, gradV];
};

const N = 37;
for (const [name, f] of Object.entries({ exp, log, tanh })) {
  const kernel = defineKernel(name, { n: "index", x: "f32*", out: "f32*" }, (k, { n, x, out }) => {
    k.vectors(n, (i, count) => out.at(i).store(f(k, x.at(i).load(count)), count));
  });
  CLOSE[name] = (machine) => {
    const x = floats(machine, 200);
    for (let i = 0; i < x.f32.length; i++) x.f32[i] *= 2 ** (i % 12);
    x.f32.set([0, -0, 88.8, -104, 2 ** -149, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, Number.NaN]);
    const out = machine.allocate(800);
    machine.compile(kernel)({ n: 199, x: x.address, out: out.address });
    return [out];
  };
}

/** Every operation of the language that rounds or compares, or moves bits, on its own. */
const operations = defineKernel("operations", { n: "index", x: "f32*", y: "f32*", out: "f32*" }, (k, args) => {
  const out = k.variable(args.out);
  k.vectors(args.n, (i, count) => {
    const [x, y] = [args.x.at(i).load(count), args.y.at(i).load(count)];
    const truth = x.compare("lt", y);
    const bits = x.bits();
    const give = (...results: VF[]): void => {
      for (const result of results) {
        out.store(result, count);
        out.advance(args.n);
      }
    };
    give(x.round(), x.floor(), x.abs().sqrt());
    give(x.max(y), x.min(y), x.neg());
    give(x.fnma(y, 3), x.fma(2, 1));
    for (const name of ["le", "eq", "ne", "gt", "ge"] as const) give(x.compare(name, y).select(x, y));
    give(truth.and(x.compare("gt", 0)).select(x, y), truth.or(x.compare("gt", 0)).select(x, y));
    for (const changed of [bits.shl(3), bits.shr(5), bits.sar(2)]) give(changed.float());
    for (const changed of [bits.mul(7), bits.or(y.bits()), bits.xor(-1)]) give(changed.float());
    give(x.toInt().toFloat(), bits.compare("gt", y.bits()).select(x, y), k.laneNumbers(2).add(i.splat()).toFloat());
    give(args.y.broadcast(), args.y.as("bf16").broadcast(), args.x.as("i8").at(i).load(count));
    out.set(args.out.at(i.add(k.lanes)));
  });
});
EXACT.operations = (machine) => {
  const [x, y] = [floats(machine, N), floats(machine, N)];
  for (let i = 0; i < N; i++) x.f32[i] *= 8;
  x.f32.set([0.5, 1.5, -2.5, Number.NaN, 1, Number.POSITIVE_INFINITY, -0]);
  y.f32.set([0.5, Number.NaN, 0, 1, 1, 2, 0]);
  const out = machine.allocate(4 * N * 40);
  machine.compile(operations)({ n: N, x: x.address, y: y.address, out: out.address });
  return [out];
};

const silu = Program.of(2, 1, ([x, y], [a]) => x!.div(x!.neg().exp().add(1)).mul(y!).add(a!));
const product = Program.of(2, 0, ([x, y]) => x!.mul(y!));
const both = [
  { element: "f32", repeated: false },
  { element: "bf16", repeated: false },
] as const;
const elementwise = (["f32", "bf16"] as const).map((out) =>
  elementwiseKernel(silu, { inputs: both, out, accumulate: false }),
);
const rowSum = rowKernel("sum", product, { inputs: both, accumulate: true });
const columns = (["sum", "max", "min"] as const).map((kind) =>
  columnKernel(kind, product, { inputs: both, accumulate: false }),
);

CLOSE["elementwise and reductions"] = (machine) => {
  const rows = 5;
  const x = floats(machine, rows * N);
  const y = machine.allocate(2 * rows * N);
  y.u16.set(toBf16(fill(new Float32Array(rows * N), ++seed)));
  const inputs = { x0: x.address, s0: N, x1: y.address, s1: N };
  const wide = machine.allocate(4 * rows * N);
  const narrow = machine.allocate(2 * rows * N + 2);
  elementwise.forEach((kernel, i) => {
    const out = i === 0 ? wide : narrow;
    machine.compile(kernel)({ ...inputs, p0: 0.25, columns: N, total: rows * N, out: out.address, so: N }, 0, rows);
  });
  const ones = machine.allocate(64);
  ones.f32.fill(1);
  const sums = floats(machine, rows);
  const given = { columns: N, total: rows * N, out: sums.address, so: 1, ones: ones.address, ...inputs };
  machine.compile(rowSum)(given, 0, rows);
  const down = columns.map((kernel) => {
    const out = machine.allocate(4 * N);
    machine.compile(kernel)({ ...inputs, n: N, rows, out: out.address }, 0, Math.ceil(N / machine.target.lanes));
    return out;
  });
  return [wide, narrow, sums, ...down];
};

const norms = [rmsNormKernel("f32*"), rmsNormKernel("bf16*")] as const;
const normGradient = rmsNormBackwardKernel("f32*", true);
CLOSE["norm, rope, AdamW"] = (machine) => {
  const rows = 3;
  const [x, grad, weight] = [floats(machine, rows * N), floats(machine, rows * N), floats(machine, N)];
  const short = machine.allocate(2 * N + 2);
  short.u16.set(toBf16(weight.f32));
  const outputs = [1, 2, 3].map(() => machine.allocate(4 * rows * N));
  const [rstd, gradWeight] = [machine.allocate(4 * rows), machine.allocate(4 * N)];
  const common = { n: N, inverseN: 1 / N, x: x.address, sx: N, rstd: rstd.address };
  norms.forEach((kernel, i) => {
    const w = i === 0 ? weight : short;
    machine.compile(kernel)({ ...common, eps: 1e-6, weight: w.address, out: outputs[i]!.address, so: N }, 0, rows);
  });
  const given = { ...common, grad: grad.address, sg: N };
  machine.compile(normGradient)({ ...given, weight: weight.address, out: outputs[2]!.address, so: N }, 0, rows);
  machine.compile(rmsNormWeightGradKernel)(
    { n: N, rows, grad: grad.address, sg: N, x: x.address, sx: N, rstd: rstd.address, out: gradWeight.address },
    0,
    Math.ceil(N / machine.target.lanes),
  );
  const [half, heads] = [6, 2];
  const [cos, sin, turned] = [
    floats(machine, rows * half),
    floats(machine, rows * half),
    machine.allocate(4 * rows * 24),
  ];
  machine.compile(ropeKernel)(
    {
      ...{ heads, half, cos: cos.address, sin: sin.address, x: x.address, sx: 24, hx: 12 },
      ...{ out: turned.address, so: 24, ho: 12 },
    },
    0,
    rows,
  );
  const [param, m, v] = [floats(machine, 50), floats(machine, 50), floats(machine, 50)];
  v.f32.set(v.f32.map(Math.abs));
  machine.compile(adamWKernel)(
    {
      ...{ columns: 30, total: 50, param: param.address, grad: x.address, m: m.address, v: v.address },
      ...{ beta1: 0.9, oneMinusBeta1: 0.1, beta2: 0.999, oneMinusBeta2: 0.001, gradScale: 0.5 },
      ...{ decay: 0.99, rate: 0.01, inverseCorrection2: 1.5, eps: 1e-8 },
    },
    0,
    2,
  );
  return [...outputs, rstd, gradWeight, turned, param, m, v];
};

CLOSE["softmax blocks and dropout"] = (machine) => {
  const rows = 2;
  const [logits, carried, maximum, sum] = [
    floats(machine, rows * N),
    floats(machine, rows * 20),
    floats(machine, rows),
    floats(machine, rows),
  ];
  const common = { n: N, logits: logits.address, sl: N };
  machine.compile(softmaxBlockKernel)(
    { ...common, maximum: maximum.address, sum: sum.address, carried: carried.address, sc: 20, width: 20 },
    0,
    rows,
  );
  const scaled = floats(machine, rows * N);
  machine.compile(softmaxGradKernel)(
    { n: N, logits: scaled.address, sl: N, shift: maximum.address, scale: sum.address },
    0,
    rows,
  );
  const constants = machine.allocate(4 * DROPOUT_WORDS);
  const words = new Uint32Array(constants.i32.buffer, constants.i32.byteOffset, DROPOUT_WORDS);
  writeDropout(words, { seed: [1234567, 7654321], stream: 3 }, 0.5);
  const places = machine.allocate(4 * 2 * rows);
  places.i32.set([0, 5, 9, 2]);
  const [x, out] = [floats(machine, rows * N), machine.allocate(4 * rows * N)];
  machine.compile(dropoutKernel)(
    {
      ...{ n: N, scale: 2, places: places.address, constants: constants.address },
      ...{ x: x.address, sx: N, out: out.address, so: N },
    },
    0,
    rows,
  );
  return [logits, carried, maximum, sum, scaled, out];
};

test.skipIf(!avx512)("kernels give on AVX-512 what they give on AVX2", () => compareWithAvx2(avx512!));
test.skipIf(!haveBochs)("kernels give on emulated AVX-512 what they give on AVX2", () => {
  compareWithAvx2(new EmulatedMachine(AVX512));
});

function compareWithAvx2(machine: Machine): void {
  const scenes = [...Object.entries(EXACT), ...Object.entries(CLOSE)];
  const run = (machine: Machine) => {
    seed = 0;
    return scenes.map(([, scene]) => scene(machine));
  };
  const expected = run(avx2).map((memories) => memories.map(({ f32 }) => f32.slice()));
  avx2.reset();
  const results = run(machine);
  if (machine instanceof EmulatedMachine) machine.flush();
  scenes.forEach(([name], s) => {
    results[s]!.forEach(({ f32 }, part) => {
      const wanted = expected[s]![part]!;
      if (name in EXACT) {
        // Bit for bit, but for what a NaN carries.
        const at = f32.findIndex((value, i) => !Object.is(value, wanted[i]));
        if (at >= 0) throw new Error(`${name}: result ${part}[${at}] is ${f32[at]}, on AVX2 ${wanted[at]}`);
        return;
      }
      f32.forEach((value, i) => {
        // Sums over lanes run in another order.
        const near = Object.is(value, wanted[i]) || Math.abs(value - wanted[i]!) <= 2e-6 * (1 + Math.abs(wanted[i]!));
        if (!near) throw new Error(`${name}: result ${part}[${i}] is ${value}, on AVX2 ${wanted[i]}`);
      });
    });
  });
}
