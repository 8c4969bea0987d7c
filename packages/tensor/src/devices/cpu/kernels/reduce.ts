// Reductions of elementwise programs: along rows, and down columns.
import type { Program } from "../../../expr/program.ts";
import type { Builder } from "../lang/builder.ts";
import { type ArgumentType, defineKernel, type Kernel } from "../lang/kernel.ts";
import { type F32, type Index, Pointer, type VF } from "../lang/values.ts";
import { type ElementwiseForm, evaluate } from "./elementwise.ts";
import { generatedVectors, rowPointer } from "./rows.ts";
import { maxNaN, minNaN } from "./vector-math.ts";

type Form = Pick<ElementwiseForm, "inputs" | "accumulate">;
export type ReduceKind = "sum" | "max" | "min";

function programArguments(program: Program, form: Form): Record<string, ArgumentType> {
  const args: Record<string, ArgumentType> = {};
  form.inputs.forEach(({ element }, i) => {
    args[`x${i}`] = `${element}*`;
    args[`s${i}`] = "index";
  });
  for (let i = 0; i < program.params; i++) args[`p${i}`] = "f32";
  return args;
}

/** Rows summed in order to a piece, then the pieces: many small terms are not lost beside a large sum. */
const PIECE_ROWS = 64;

type Given = Readonly<Record<string, unknown>>;
const parameters = (program: Program, given: Given) =>
  Array.from({ length: program.params }, (_, i) => (given[`p${i}`] as F32).splat());

const START = { sum: 0, max: Number.NEGATIVE_INFINITY, min: Number.POSITIVE_INFINITY } as const;

const JOIN: { readonly [K in ReduceKind]: (a: VF, b: VF) => VF } = {
  sum: (a, b) => a.add(b),
  max: maxNaN,
  min: minNaN,
};

/** The lesser (greater) of two, whichever is a NaN being left out: who calls this looks for them. */
const numbersOnly = { max: (a: VF, b: VF) => a.max(b), min: (a: VF, b: VF) => a.min(b) };

/**
 * out[row · so] = the program joined over a row. Items are rows of `columns` elements, `total` in all; `ones` points to as
 * many f32 ones as a vector has lanes.
 */
export function rowKernel(kind: ReduceKind, program: Program, form: Form): Kernel {
  const args = {
    columns: "index",
    total: "index",
    out: "f32*",
    so: "index",
    ones: "f32*",
    ...programArguments(program, form),
  } as const;
  return defineKernel(`${kind}Rows`, args as Record<string, ArgumentType>, (k: Builder, given: Given) => {
    const params = parameters(program, given);
    k.loop({ from: k.begin, to: k.end }, (row) => {
      const columns = given.columns as Index;
      const n = columns.min((given.total as Index).sub(row.mul(columns)));
      const inputs = form.inputs.map(({ repeated }, i) => {
        const pointer = rowPointer(given[`x${i}`] as Pointer, row, given[`s${i}`] as Index);
        return repeated ? pointer.broadcast() : pointer;
      });
      const ones = (given.ones as Pointer).fixed();
      const joined = k.variable(k.vector(START[kind]));
      const odd = kind === "sum" ? undefined : k.variable(k.zero());
      generatedVectors(k, n, (i, count) => {
        const loaded = inputs.map((input) => (input instanceof Pointer ? input.at(i).load(count) : input));
        const result = evaluate(k, program.root, loaded, params);
        // The program of a lane beyond the end need not be what leaves the rest as it is.
        const value = count ? ones.load(count).compare("ne", 0).select(result, k.vector(START[kind])) : result;
        joined.set(kind === "sum" ? joined.add(value) : numbersOnly[kind](value, joined));
        // A lane that has met a NaN keeps it.
        odd?.set(value.compare("ne", value).select(value, odd));
      });
      const place = (given.out as Pointer).at(row.mul(given.so as Index)).fixed();
      if (odd === undefined) {
        place.store(form.accumulate ? place.loadF32().add(joined.sum()) : joined.sum());
        return;
      }
      const best = kind === "max" ? joined.maximum() : joined.neg().maximum().splat().neg().first();
      // Zeros, unless a lane has a NaN.
      const nan = odd.sum().splat();
      const whole = nan.compare("ne", nan).select(nan, best.splat());
      place.store((form.accumulate ? JOIN[kind](place.broadcast(), whole) : whole).first());
    });
  });
}

/**
 * out[column] = the program joined over `rows` rows, in order. An item is one vector of the `n` columns; s0, s1, … are
 * the elements between rows.
 */
export function columnKernel(kind: ReduceKind, program: Program, form: Form): Kernel {
  const args = { n: "index", rows: "index", out: "f32*", ...programArguments(program, form) } as const;
  const [join, start] = [JOIN[kind], START[kind]];
  return defineKernel(`${kind}Columns`, args as Record<string, ArgumentType>, (k: Builder, given: Given) => {
    const params = parameters(program, given);
    k.loop({ from: k.begin, to: k.end }, (item) => {
      const column = item.mul(k.lanes);
      const count = (given.n as Index).sub(column);
      const inputs = form.inputs.map(({ repeated }, i) => {
        const pointer = given[`x${i}`] as Pointer;
        return k.variable((repeated ? pointer : pointer.at(column)).fixed());
      });
      const sum = k.variable(k.vector(start));
      k.loop({ to: given.rows as Index, step: PIECE_ROWS }, (row) => {
        const piece = k.variable(k.vector(start));
        k.loop({ to: (given.rows as Index).sub(row).min(PIECE_ROWS), maySpill: true }, () => {
          const loaded = inputs.map((input, i) => (form.inputs[i]!.repeated ? input.broadcast() : input.load(count)));
          piece.set(join(piece, evaluate(k, program.root, loaded, params)));
          inputs.forEach((input, i) => {
            input.advance(given[`s${i}`] as Index);
          });
        });
        sum.set(join(sum, piece));
      });
      const place = (given.out as Pointer).at(column).fixed();
      place.store(form.accumulate ? join(place.load(count), sum) : sum, count);
    });
  });
}
