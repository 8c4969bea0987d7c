// Elementwise programs: one kernel for a fused chain, over any strides and element types.
import type { DType } from "../../dtype.ts";
import type { Expr } from "../../expr/expr.ts";
import { IDENTITY, type Program } from "../../expr/program.ts";
import { sizeOf } from "../../shape.ts";
import type { View } from "../device.ts";
import { withoutBlocks } from "./blocks.ts";
import type { Binding, GpuContext, KernelSource, Word } from "./context.ts";
import { isWhole, Translation } from "./expression.ts";
import { fused } from "./fused.ts";
import { dimensionsOf } from "./reduction.ts";
import { eachItem, ITEMS, libraryFor, load, parameters, slot, storages, store, written } from "./shader.ts";
import { type Temporary, temporary } from "./wgsl/views.ts";

/** Where an expression's values go. */
export interface Output {
  readonly root: Expr;
  readonly view: View;
  readonly accumulate?: boolean;
}

/** How operands are bound: one binding a buffer, so that an input that is written too is read through the same. */
export interface Bindings {
  readonly bindings: readonly Binding[];
  /** A letter for each binding, as in `storages`. */
  readonly letters: string;
  /** For every view: its binding's number from 0, and its first element there. */
  readonly places: readonly { readonly at: number; readonly first: number }[];
}

export function bindAll(gpu: GpuContext, op: string, inputs: readonly View[], outputs: readonly View[]): Bindings {
  const bindings: Binding[] = [];
  const letters: string[] = [];
  const bind = (view: View, letter: string) => {
    const { binding, first } = gpu.bind(view, op);
    let at = bindings.findIndex((b) => b.buffer === binding.buffer && b.offset === binding.offset);
    if (at < 0) {
      at = bindings.push(binding) - 1;
      letters.push(letter);
    } else if (letter === "a" || letters[at] === "r") letters[at] = letter;
    return { at, first };
  };
  const out = outputs.map((view) => bind(view, written(view.dtype)));
  const places = [...inputs.map((view) => bind(view, "r")), ...out];
  // Inputs come after the outputs, so they never turn a written binding into a read one.
  return { bindings, letters: letters.join(""), places };
}

/** The letters as pipelines know them. */
export const accessOf = (letters: string): string => letters.replaceAll("a", "w");

/** Numbers given at a call: each as f32 bits and as i32. */
export function numberWords(params: readonly number[]): Word[] {
  return params.flatMap((value) => [{ f32: value }, isWhole(value) ? value : 0]);
}

/** How the numbers from slot `first` on appear in a kernel. */
export function numberSlots(params: readonly boolean[], first: number) {
  return params.map((whole, i) => ({
    f32: `bitcast<f32>(${slot(first + 2 * i)})`,
    i32: `bitcast<i32>(${slot(first + 2 * i + 1)})`,
    whole,
  }));
}

/** Parameters before the sizes: the number of elements, two free ones, and the 0 of the library's `nan()`. */
const HEAD = 4;

interface Form {
  readonly sizes: number;
  readonly inputs: readonly { readonly dtype: DType; readonly at: number }[];
  readonly outputs: readonly {
    readonly root: Expr;
    readonly dtype: DType;
    readonly at: number;
    readonly add: boolean;
  }[];
  readonly letters: string;
  readonly whole: readonly boolean[];
}

/** Statements that turn the number `i` into coordinates c0, c1, … of `rank` sizes whose parameters begin at `first`. */
export function coordinates(i: string, rank: number, first: number, name = "c"): string[] {
  const lines: string[] = [`var rest_${name} = ${i};`];
  for (let d = rank - 1; d > 0; d--) {
    lines.push(`let ${name}${d} = rest_${name} % ${slot(first + d)}; rest_${name} /= ${slot(first + d)};`);
  }
  lines.push(`let ${name}0 = rest_${name};`);
  return lines;
}

/** The element number of a view: its first element's parameter at `first`, its strides after it. */
export function place(rank: number, first: number, name = "c"): string {
  const terms = Array.from({ length: rank }, (_, d) => `${name}${d} * ${slot(first + 1 + d)}`);
  return [slot(first), ...terms].join(" + ");
}

function source(form: Form): KernelSource {
  const rank = form.sizes;
  const views = [...form.inputs, ...form.outputs];
  const step = 1 + rank;
  const firstOf = (v: number): number => HEAD + rank + v * step;
  const numbers = firstOf(views.length);
  const atomic = (at: number): boolean => form.letters[at] === "a";
  const lines = coordinates("i", rank, HEAD);
  for (const [v] of views.entries()) lines.push(`let e${v} = ${place(rank, firstOf(v))};`);
  const operands = {
    inputs: form.inputs.map(({ dtype, at }, v) => ({ text: load(`b${at + 1}`, dtype, `e${v}`, atomic(at)), dtype })),
    params: numberSlots(form.whole, numbers),
  };
  const translation = new Translation(operands);
  const results = form.outputs.map(({ root, dtype }) => translation.value(root, dtype === "i32" ? "i32" : "f32").text);
  lines.push(...translation.statements);
  for (const [o, { dtype, at, add }] of form.outputs.entries()) {
    const e = `e${form.inputs.length + o}`;
    const value = add ? `${load(`b${at + 1}`, dtype, e, atomic(at))} + ${results[o]}` : results[o];
    lines.push(`let r${o} = ${value};`);
  }
  for (const [o, { dtype, at }] of form.outputs.entries()) {
    lines.push(store(`b${at + 1}`, dtype, `e${form.inputs.length + o}`, `r${o}`));
  }
  const body = eachItem(slot(0), lines.map((line) => `  ${line}`).join("\n"));
  const head = parameters(numbers + 2 * form.whole.length) + storages(form.letters);
  return { code: `${head}\n${libraryFor(body)}\n${body}`, access: accessOf(form.letters) };
}

/**
 * Computes several expressions of the same inputs in one pass. All views have one shape; an output may lie exactly where an
 * input does, each element being read before any is written.
 */
export function map(
  gpu: GpuContext,
  op: string,
  params: readonly number[],
  inputs: readonly View[],
  outputs: readonly Output[],
): void {
  const views = [...inputs, ...outputs.map(({ view }) => view)];
  const { shape } = views[views.length - 1];
  if (sizeOf(shape) === 0) return;
  if (!views.every((view) => gpu.fits(view))) {
    const halves = cut(shape, views);
    for (const [from, to] of halves.parts) {
      const part = (view: View): View => slice(view, halves.dim, from, to);
      const outs = outputs.map((o) => ({ ...o, view: part(o.view) }));
      map(gpu, op, params, inputs.map(part), outs);
    }
    return;
  }
  const { sizes, steps } = dimensionsOf(
    shape,
    views.map((view) => view.strides),
  );
  const { bindings, letters, places } = bindAll(
    gpu,
    op,
    inputs,
    outputs.map(({ view }) => view),
  );
  const whole = params.map(isWhole);
  const form: Form = {
    sizes: sizes.length,
    inputs: inputs.map(({ dtype }, v) => ({ dtype, at: places[v].at })),
    outputs: outputs.map(({ root, view, accumulate = false }, o) => {
      return { root, dtype: view.dtype, at: places[inputs.length + o].at, add: accumulate };
    }),
    letters,
    whole,
  };
  const ins = form.inputs.map(({ dtype, at }) => `${dtype}${at}`);
  const outs = form.outputs.map(({ root, dtype, at, add }) => `${root.id}${dtype}${at}${add ? "+" : ""}`);
  const key = `map ${sizes.length} ${letters} ${ins} ${outs} ${whole.map(Number).join("")}`;
  const total = sizeOf(sizes);
  const words: Word[] = [total, 0, 0, 0, ...sizes];
  for (const [v, { first }] of places.entries()) words.push(first, ...steps[v]);
  words.push(...numberWords(params));
  gpu.run(
    gpu.kernel(key, () => source(form)),
    words,
    bindings,
    gpu.spread(Math.ceil(total / ITEMS)),
  );
}

/** The dimension to halve where a view is larger than a binding: that over which the views reach farthest. */
function cut(shape: readonly number[], views: readonly View[]) {
  const reach = shape.map((n, d) => (n - 1) * Math.max(...views.map(({ strides }) => Math.abs(strides[d]))));
  const dim = reach.indexOf(Math.max(...reach));
  const middle = shape[dim] >> 1;
  return {
    dim,
    parts: [
      [0, middle],
      [middle, shape[dim]],
    ],
  };
}

function slice(view: View, dim: number, from: number, to: number): View {
  const offset = view.offset + from * view.strides[dim];
  return { ...view, offset, shape: view.shape.map((n, d) => (d === dim ? to - from : n)) };
}

/** The definition is `Device.elementwise`'s. */
export function elementwise(
  gpu: GpuContext,
  program: Program,
  params: readonly number[],
  inputs: readonly View[],
  out: View,
  accumulate = false,
): void {
  withoutBlocks(gpu, inputs, (plain) => {
    if (!accumulate && fused(gpu, program, params, plain, out)) return;
    map(gpu, "elementwise", params, plain, [{ root: program.root, view: out, accumulate }]);
  });
}

/** Runs `body` with inputs whose last dimension lies closely: where one does not, a copy is made for the time. */
export function close(gpu: GpuContext, inputs: readonly View[], body: (inputs: readonly View[]) => void): void {
  const copies: Temporary[] = [];
  const moved = inputs.map((view) => {
    if (view.strides.at(-1) === 1 || view.shape.at(-1) === 1 || sizeOf(view.shape) === 0) return view;
    const copy = temporary(gpu, view.shape);
    copies.push(copy);
    elementwise(gpu, IDENTITY, [], [view], copy.view);
    return copy.view;
  });
  body(moved);
  for (const copy of copies) copy.free();
}
