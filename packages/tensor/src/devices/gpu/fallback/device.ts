// The gpu device where there is no WebGPU: gpu.js runs kernels on WebGL 2, WebAssembly or JavaScript. The four that matter
// (elementwise, reduce, matmul, rows) are gpu.js functions, the rest is composed of them; what they cannot say is computed by
// the reference's loops on the bytes.
import { BLOCKS, type BlockType, BYTES, type DType, isBlocks, type TypedArray, typedArray } from "../../../dtype.ts";
import { DeviceError } from "../../../errors.ts";
import { constant, type Expr, input, select, sigmoid } from "../../../expr/expr.ts";
import { Program } from "../../../expr/program.ts";
import { Storage } from "../../../memory.ts";
import { contiguousStrides, sizeOf } from "../../../shape.ts";
import { isDense } from "../../cpu/iteration.ts";
import type {
  AdamWArgs,
  DeviceInfo,
  LowRankArgs,
  LowRankGradients,
  MatmulOptions,
  RandomKey,
  ReduceKind,
  View,
} from "../../device.ts";
import { HostDevice } from "../../reference/host-device.ts";
import { REDUCE_START } from "../../reference/loops.ts";
import { dimensionsOf, reductionOf } from "../reduction.ts";
import { type Backend, type Handle, MOST_ELEMENTS, type Source } from "./backend.ts";
import {
  argmaxSource,
  constantsOf,
  elementwiseSource,
  GATHER,
  MATMUL,
  partsOf,
  placeSource,
  reduceSource,
  SCATTER,
} from "./kernels.ts";
import { Place } from "./memory.ts";

export { MOST_ELEMENTS } from "./backend.ts";

/** Textures that one WebGL 2 shader may read, by the standard's minimum. */
const MOST_ARRAYS = 16;

const turned = (view: View): View => ({
  ...view,
  shape: view.shape.toReversed(),
  strides: view.strides.toReversed(),
});

const COPY = Program.of(1, 0, ([x]) => x);
const DROP = Program.of(2, 1, ([x, mask], [factor]) => select(mask, x.mul(factor), 0));
const SWIGLU = Program.of(2, 0, ([gate, up]) => gate.mul(sigmoid(gate)).mul(up));
const GRAD_GATE = Program.of(3, 0, ([grad, gate, up]) => {
  const open = sigmoid(gate);
  return grad.mul(up).mul(open).mul(constant(1).sub(open).mul(gate).add(1));
});
const GRAD_UP = Program.of(2, 0, ([grad, gate]) => grad.mul(gate).mul(sigmoid(gate)));
const SQUARE = Program.of(1, 0, ([x]) => x.mul(x));
const RSTD = Program.of(1, 2, ([sum], [size, eps]) => sum.div(size).add(eps).sqrt().pow(-1));
const SCALED = Program.of(3, 0, ([x, rstd, weight]) => x.mul(rstd).mul(weight));
const MOMENT = Program.of(3, 2, ([m, g, scale], [beta, rest]) => m.mul(beta).add(g.mul(scale).mul(rest)));
const SECOND = Program.of(3, 2, ([v, g, scale], [beta, rest]) => v.mul(beta).add(g.mul(scale).pow(2).mul(rest)));
const PLAIN_MOMENT = Program.of(2, 2, ([m, g], [beta, rest]) => m.mul(beta).add(g.mul(rest)));
const PLAIN_SECOND = Program.of(2, 2, ([v, g], [beta, rest]) => v.mul(beta).add(g.pow(2).mul(rest)));
const UPDATE = Program.of(3, 4, ([p, m, v], [keep, rate, root, eps]) =>
  p.mul(keep).sub(m.mul(rate).div(v.sqrt().div(root).add(eps))),
);

/** See the file's head. */
export class FallbackDevice extends HostDevice {
  readonly info: DeviceInfo;
  readonly dtypes: readonly DType[] = ["f32", "bf16", "i32", ...(Object.keys(BLOCKS) as BlockType[])];
  /** What runs the kernels. */
  readonly backend: Backend;
  /** The backends that come first and why each was refused. */
  readonly refused: readonly string[];

  constructor(backend: Backend, refused: readonly string[] = []) {
    super();
    this.backend = backend;
    this.refused = refused;
    const { name } = backend;
    // What was asked for by its name has been refused by nobody.
    const isSlow = refused.length > 0 && name !== "webgl2";
    const warning = `no GPU is used: ${name} of gpu.js computes on the processor, many times slower than --device cpu. Use that, or for a GPU its driver (Vulkan on Linux); refused: ${refused.join("; ")}`;
    this.info = { name: "gpu", isa: `gpu.js ${name}`, threads: 1, ...(isSlow && { warning }) };
  }

  allocate(byteLength: number): Place {
    let bytes: Uint8Array;
    try {
      bytes = new Uint8Array(byteLength);
    } catch (cause) {
      throw new DeviceError("allocate", `no memory for ${byteLength} bytes`, { cause });
    }
    return new Place(this.backend, byteLength, bytes);
  }
  map(bytes: Uint8Array, elementBytes: number): Place {
    const aligned = bytes.byteOffset % elementBytes === 0 ? bytes : bytes.slice();
    return new Place(this.backend, bytes.byteLength, aligned);
  }
  free(handle: unknown): void {
    (handle as Place).free();
  }
  async dispose(): Promise<void> {
    await this.backend.dispose();
  }
  override async read(storage: Storage, byteOffset: number, byteLength: number): Promise<Uint8Array> {
    return (storage.handle as Place).bytes().slice(byteOffset, byteOffset + byteLength);
  }

  protected bytes(storage: Storage): Uint8Array {
    return (storage.handle as Place).bytesToWrite();
  }
  protected array(view: View): TypedArray {
    const { buffer, byteOffset, byteLength } = (view.storage.handle as Place).bytesToWrite();
    return typedArray(view.dtype, buffer, byteOffset, Math.floor(byteLength / BYTES[view.dtype]));
  }

  /** The views' numbers for a kernel; undefined where one of them is not for kernels. */
  #arrays(views: readonly View[]): Handle[] | undefined {
    if (views.length > MOST_ARRAYS) return undefined;
    const found: Handle[] = [];
    for (const view of views) {
      this.#check(view);
      const { storage, dtype } = view;
      const handle = (storage.handle as Place).handle(dtype);
      if (!handle) return undefined;
      found.push(handle);
    }
    return found;
  }

  /** @throws DeviceError when the view leaves its storage: kernels would read what is not theirs */
  #check({ storage, dtype, offset, shape, strides }: View): void {
    if (shape.includes(0)) return;
    const reach = (sign: number): number =>
      shape.reduce((at, n, d) => at + (sign * strides[d] > 0 ? (n - 1) * strides[d] : 0), offset);
    // A block at the end may not be whole.
    const room = isBlocks(dtype) ? storage.byteLength + BLOCKS[dtype].bytes : storage.byteLength;
    if (reach(-1) < 0 || (reach(1) + 1) * BYTES[dtype] > room) {
      throw new DeviceError("gpu", `a view of shape [${shape}] leaves its storage of ${storage.byteLength} bytes`);
    }
  }

  /** Can a kernel make it? A view of f32 none of whose elements is there twice, in a storage of not too many. */
  #takes({ dtype, storage, shape, strides }: View): boolean {
    if (dtype !== "f32" || storage.byteLength > 4 * MOST_ELEMENTS || storage.byteLength % 4 !== 0) return false;
    let reach = 1;
    const dims = [...shape.keys()].filter((d) => shape[d] !== 1).sort((a, b) => strides[a] - strides[b]);
    for (const d of dims) {
      if (strides[d] < reach) return false;
      reach = strides[d] * (shape[d] - 1) + reach;
    }
    return true;
  }

  /** Runs a kernel and lays its values, in row-major order, into `out`. */
  #make(key: string, source: () => Source, arrays: readonly Handle[], numbers: readonly number[], out: View): void {
    this.#check(out);
    const n = sizeOf(out.shape);
    const values = this.backend.run(key, source, n, arrays, numbers);
    const place = out.storage.handle as Place;
    const dtype = out.dtype as "f32" | "i32";
    if (out.offset === 0 && n * 4 === out.storage.byteLength && isDense(out)) {
      place.become(values, dtype);
      return;
    }
    const steps = contiguousStrides(out.shape);
    const dims = [...out.shape.keys()]
      .filter((d) => out.shape[d] !== 1)
      .sort((a, b) => out.strides[b] - out.strides[a]);
    const words = [out.offset, ...dims.flatMap((d) => [out.strides[d], out.shape[d], steps[d]])];
    const old = place.handle(dtype)!;
    const rank = dims.length;
    const size = out.storage.byteLength / 4;
    const merged = this.backend.run(`place ${rank}`, () => placeSource(rank), size, [old, values], words);
    this.backend.free(values);
    place.become(merged, dtype);
  }

  /** Runs `body` with dense f32 memory of its own. */
  #with(shapes: readonly (readonly number[])[], body: (...views: View[]) => void): void {
    const views = shapes.map((shape): View => {
      const storage = Storage.allocate(this, 4 * sizeOf(shape));
      return { storage, dtype: "f32", offset: 0, shape, strides: contiguousStrides(shape) };
    });
    try {
      body(...views);
    } finally {
      for (const { storage } of views) storage.release();
    }
  }

  override elementwise(
    program: Program,
    params: readonly number[],
    inputs: readonly View[],
    out: View,
    accumulate = false,
  ): void {
    if (sizeOf(out.shape) === 0) return;
    // Whole numbers are computed as such, which f32 is not for.
    const floats = inputs.every(({ dtype }) => dtype !== "i32");
    const views = accumulate ? [...inputs, out] : inputs;
    const arrays = floats && this.#takes(out) ? this.#arrays(views) : undefined;
    if (!arrays) {
      super.elementwise(program, params, inputs, out, accumulate);
      return;
    }
    const root: Expr = accumulate ? program.root.add(input(inputs.length)) : program.root;
    const { sizes, steps } = dimensionsOf(
      out.shape,
      views.map(({ strides }) => strides),
    );
    const rank = sizes.length;
    const numbers = [
      ...sizes,
      ...views.flatMap((view, v) => [view.offset, ...steps[v]]),
      ...params,
      ...constantsOf(root),
    ];
    const source = () => elementwiseSource(root, views.length, params.length, rank);
    this.#make(`map ${root.id} ${views.length} ${rank}`, source, arrays, numbers, out);
  }

  override reduce(
    kind: ReduceKind,
    program: Program,
    params: readonly number[],
    inputs: readonly View[],
    out: View,
    accumulate = false,
  ): void {
    const { single, kept, joined, elements, results } = reductionOf(inputs, out);
    const floats = inputs.every(({ dtype }) => dtype !== "i32");
    const arrays = floats && !accumulate && elements > 0 && this.#takes(single) ? this.#arrays(inputs) : undefined;
    if (results === 0) return;
    if (!arrays) {
      super.reduce(kind, program, params, inputs, out, accumulate);
      return;
    }
    const { root } = program;
    const numbers = [
      ...[elements, partsOf(elements), REDUCE_START[kind], ...kept.sizes, ...joined.sizes],
      ...inputs.flatMap((view, v) => [view.offset, ...kept.steps[v + 1], ...joined.steps[v]]),
      ...params,
      ...constantsOf(root),
    ];
    const [k, j] = [kept.sizes.length, joined.sizes.length];
    const source = () => reduceSource(kind, root, inputs.length, params.length, k, j);
    this.#make(`${kind} ${root.id} ${inputs.length} ${k} ${j}`, source, arrays, numbers, single);
  }

  override argmax(x: View, out: View): void {
    const arrays = x.dtype === "i32" ? undefined : this.#arrays([x]);
    const whole = out.offset === 0 && isDense(out) && sizeOf(out.shape) * 4 === out.storage.byteLength;
    if (!arrays || !whole || sizeOf(out.shape) === 0) {
      super.argmax(x, out);
      return;
    }
    const { sizes, steps } = dimensionsOf(x.shape.slice(0, -1), [x.strides.slice(0, -1)]);
    const numbers = [x.shape.at(-1)!, x.strides.at(-1)!, ...sizes, x.offset, ...steps[0]];
    this.#make(`argmax ${sizes.length}`, () => argmaxSource(sizes.length), arrays, numbers, out);
  }

  /** Drawn on the host, where whole numbers have 32 bits, as a mask of zeros and ones. */
  override dropout(x: View, rows: View, p: number, key: RandomKey, out: View): void {
    this.#with([x.shape], (mask) => {
      (mask.storage.handle as Place).bytesToWrite();
      this.array(mask).fill(1);
      super.dropout(mask, rows, p, key, mask);
      // A dropped infinity is 0, not NaN: chosen, not multiplied.
      this.elementwise(DROP, [1 / (1 - p)], [x, mask], out);
    });
  }

  override matmul(a: View, b: View, out: View, options: MatmulOptions = {}): void {
    const rank = out.shape.length;
    const n = sizeOf(out.shape);
    if (n === 0) return;
    const count = a.shape.at(-1)!;
    const arrays = rank <= 5 && this.#takes(out) && count > 0 ? this.#arrays([a, b]) : undefined;
    if (!arrays) {
      super.matmul(a, b, out, options);
      return;
    }
    const { alpha = 1, accumulate, addend, bias } = options;
    const pad = (list: readonly number[], one: number): number[] => [...Array(5 - rank).fill(one), ...list];
    const shape = pad(out.shape, 1);
    const [as, bs] = [pad(a.strides, 0), pad(b.strides, 0)];
    const numbers = [
      ...[...shape.slice(1), count, partsOf(count), alpha],
      ...[a.offset, as[0], as[1], as[2], as[3], as[4], b.offset, bs[0], bs[1], bs[2], bs[3], bs[4]],
    ];
    const into = (to: View): void => this.#make("matmul", () => MATMUL, arrays, numbers, to);
    if (!accumulate && !addend && !bias) {
      into(out);
      return;
    }
    this.#with([out.shape], (product) => {
      into(product);
      const more: View[] = [];
      if (accumulate) more.push(out);
      else if (addend) more.push(addend);
      if (bias) more.push({ ...bias, shape: out.shape, strides: [...Array(rank - 1).fill(0), bias.strides[0]] });
      const sum = Program.of(1 + more.length, 0, (terms) => terms.reduce((x, y) => x.add(y)));
      this.elementwise(sum, [], [product, ...more], out);
    });
  }

  /** Runs `body` with x as it enters the product: dropped where there is dropout. */
  #dropped({ x, dropout }: LowRankArgs, body: (x: View) => void): void {
    if (!dropout) body(x);
    else {
      this.#with([x.shape], (view) => {
        this.dropout(x, dropout.rows, dropout.p, dropout.key, view);
        body(view);
      });
    }
  }

  override lowRank(args: LowRankArgs, out: View): void {
    this.#dropped(args, (x) => this.matmul(x, turned(args.a), args.low, { alpha: args.scaling }));
    this.matmul(args.low, turned(args.b), out, { accumulate: true });
  }

  override lowRankBackward(args: LowRankArgs, gradients: LowRankGradients): void {
    const { a, b, low, scaling, dropout } = args;
    const { grad, gradX, gradA, gradB, accumulateA, accumulateB } = gradients;
    if (gradX || gradA) {
      this.#with([[grad.shape[0], a.shape[0]]], (hidden) => {
        this.matmul(grad, b, hidden, { alpha: scaling });
        if (gradA) {
          this.#dropped(args, (x) => this.matmul(turned(hidden), x, gradA, { accumulate: accumulateA }));
        }
        if (!gradX) return;
        if (!dropout) this.matmul(hidden, a, gradX, { accumulate: true });
        else {
          this.#with([gradX.shape], (change) => {
            this.matmul(hidden, a, change);
            this.dropout(change, dropout.rows, dropout.p, dropout.key, change);
            this.elementwise(COPY, [], [change], gradX, true);
          });
        }
      });
    }
    if (gradB) this.matmul(turned(grad), low, gradB, { accumulate: accumulateB });
  }

  override swiglu(gate: View, up: View, out: View): void {
    this.elementwise(SWIGLU, [], [gate, up], out);
  }
  override swigluBackward(grad: View, gate: View, up: View, gradGate: View, gradUp: View): void {
    // gradGate may be gate itself, which the other needs.
    this.#with([gate.shape], (kept) => {
      this.elementwise(COPY, [], [gate], kept);
      this.elementwise(GRAD_GATE, [], [grad, kept, up], gradGate);
      this.elementwise(GRAD_UP, [], [grad, kept], gradUp);
    });
  }

  override gatherRows(table: View, index: View, out: View): void {
    const arrays =
      out.dtype === "f32" && table.dtype !== "i32" && this.#takes(out) ? this.#arrays([table, index]) : undefined;
    if (!arrays || sizeOf(out.shape) === 0) {
      super.gatherRows(table, index, out);
      return;
    }
    const numbers = [
      ...[out.shape[1], table.shape[0], Number.NaN],
      ...[table.offset, ...table.strides, index.offset, ...index.strides],
    ];
    this.#make("gather", () => GATHER, arrays, numbers, out);
  }
  override scatterRows(src: View, index: View, out: View, mode: "set" | "add"): void {
    const floats = [src, out].every(({ dtype }) => dtype === "f32");
    const arrays = floats && this.#takes(out) && sizeOf(src.shape) > 0 ? this.#arrays([out, src, index]) : undefined;
    if (!arrays) {
      super.scatterRows(src, index, out, mode);
      return;
    }
    const numbers = [
      ...[out.shape[1], src.shape[0], out.offset, ...out.strides],
      ...[src.offset, ...src.strides, index.offset, ...index.strides],
    ];
    this.#make(`scatter ${mode}`, () => SCATTER(mode), arrays, numbers, out);
  }

  /** A view [rows] repeated along the features of `shape`, whose last dimension is theirs. */
  #alongRows(rstd: View, shape: readonly number[]): View {
    const outer = contiguousStrides(shape.slice(0, -1)).map((step) => step * rstd.strides.at(-1)!);
    return { ...rstd, shape, strides: [...outer, 0] };
  }

  override rmsNorm(x: View, weight: View, eps: number, out: View, rstd: View): void {
    const { shape } = x;
    const rows = this.#alongRows(rstd, shape);
    this.reduce("sum", SQUARE, [], [x], rows);
    this.elementwise(RSTD, [shape.at(-1)!, eps], [rstd], rstd);
    const across = { ...weight, shape, strides: [...shape.slice(1).map(() => 0), weight.strides.at(-1)!] };
    this.elementwise(SCALED, [], [x, rows, across], out);
  }

  override adamW(args: AdamWArgs): void {
    const { param, grad, m, v, lr, beta1, beta2, eps, weightDecay, step, gradScale } = args;
    const factor = gradScale && { ...gradScale, shape: grad.shape, strides: grad.shape.map(() => 0) };
    const inputs = (old: View): View[] => [old, grad, ...(factor ? [factor] : [])];
    const [first, second] = factor ? [MOMENT, SECOND] : [PLAIN_MOMENT, PLAIN_SECOND];
    this.elementwise(first, [beta1, 1 - beta1], inputs(m), m);
    this.elementwise(second, [beta2, 1 - beta2], inputs(v), v);
    const [correction, root] = [1 - beta1 ** step, Math.sqrt(1 - beta2 ** step)];
    this.elementwise(UPDATE, [1 - lr * weightDecay, lr / correction, root, eps], [param, m, v], param);
  }
}
