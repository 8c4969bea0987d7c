// Elementwise programs over f32 tensors that lie densely: kernels of gpu.js, generated from the expression. Everything else,
// which gpu.js cannot say (bf16, i32, strides, sums into what was there, writing in place), is in elementwise.ts.
import { type BinaryName, topological, type UnaryName } from "../../expr/expr.ts";
import type { Program } from "../../expr/program.ts";
import { isContiguous, sizeOf } from "../../shape.ts";
import type { View } from "../device.ts";
import type { Binding, GpuContext, KernelSource, Word } from "./context.ts";
import { GPUJS_ITEMS, type NativeFunction, translate } from "./gpujs.ts";
import { libraryFor } from "./shader.ts";

const native = (name: string, inputs: number, body: string): NativeFunction => ({ name, inputs, body });

/** Functions that gpu.js has not, or not exactly enough: see `shader.ts`. Names without underscores, which it rewrites. */
const FUNCTIONS = {
  sign: native("signOf", 1, "sign_of(a)"),
  round: native("roundOf", 1, "round(a)"),
  sqrt: native("sqrtOf", 1, "sqrt_of(a)"),
  exp: native("expOf", 1, "exp_of(a)"),
  log: native("logOf", 1, "log_of(a)"),
  sin: native("sinOf", 1, "sin_of(a)"),
  cos: native("cosOf", 1, "cos_of(a)"),
  tanh: native("tanhOf", 1, "tanh_of(a)"),
  erf: native("erfOf", 1, "erf_of(a)"),
  pow: native("powOf", 2, "pow_of(a, b)"),
  max: native("maxOf", 2, "max_of(a, b)"),
  min: native("minOf", 2, "min_of(a, b)"),
  lt: native("ltOf", 2, "f32(lt_of(a, b))"),
  le: native("leOf", 2, "f32(le_of(a, b))"),
  eq: native("eqOf", 2, "f32(eq_of(a, b))"),
  ne: native("neOf", 2, "1.0 - f32(eq_of(a, b))"),
  select: native("selectOf", 3, "select(c, b, is_true(a))"),
} as const;

type FunctionName = keyof typeof FUNCTIONS;

const call = (name: FunctionName): ((...operands: string[]) => string) => {
  return (...operands) => `${FUNCTIONS[name].name}(${operands.join(", ")})`;
};

/** Operations as gpu.js' JavaScript. */
const UNARY: { readonly [K in UnaryName]: (a: string) => string } = {
  neg: (a) => `-${a}`,
  abs: (a) => `Math.abs(${a})`,
  floor: (a) => `Math.floor(${a})`,
  ceil: (a) => `Math.ceil(${a})`,
  ...{ sign: call("sign"), round: call("round"), sqrt: call("sqrt"), exp: call("exp"), log: call("log") },
  ...{ sin: call("sin"), cos: call("cos"), tanh: call("tanh"), erf: call("erf") },
};
const BINARY: { readonly [K in BinaryName]: (a: string, b: string) => string } = {
  add: (a, b) => `${a} + ${b}`,
  sub: (a, b) => `${a} - ${b}`,
  mul: (a, b) => `${a} * ${b}`,
  div: (a, b) => `${a} / ${b}`,
  ...{ pow: call("pow"), max: call("max"), min: call("min") },
  ...{ lt: call("lt"), le: call("le"), eq: call("eq"), ne: call("ne") },
};

/** The program as a kernel function of gpu.js. */
export function kernelFunction({ root, inputs, params }: Program): { source: string; functions: NativeFunction[] } {
  const names = new Map<unknown, string>();
  const lines: string[] = [];
  const functions = new Set<NativeFunction>();
  for (const e of topological(root)) {
    const { node } = e;
    const of = (operand: unknown): string => names.get(operand)!;
    const use = (op: string): void => {
      if (Object.hasOwn(FUNCTIONS, op)) functions.add(FUNCTIONS[op as FunctionName]);
    };
    if (node.kind === "const") names.set(e, `(${Math.fround(node.value)})`);
    else if (node.kind === "param") names.set(e, `p${node.index}`);
    else {
      const name = `t${lines.length}`;
      let text: string;
      // The index is used where it stands: kept in a variable it would become an f32, wrong above 2²⁴.
      if (node.kind === "input") text = `x${node.index}[this.thread.x]`;
      else if (node.kind === "unary") {
        use(node.op);
        text = UNARY[node.op](of(node.a));
      } else if (node.kind === "binary") {
        use(node.op);
        text = BINARY[node.op](of(node.a), of(node.b));
      } else {
        use("select");
        text = call("select")(of(node.test), of(node.a), of(node.b));
      }
      names.set(e, name);
      lines.push(`const ${name} = ${text};`);
    }
  }
  const given = [
    ...Array.from({ length: inputs }, (_, i) => `x${i}`),
    ...Array.from({ length: params }, (_, i) => `p${i}`),
  ];
  const source = `function (${given.join(", ")}) {\n${lines.join("\n")}\nreturn ${names.get(root)};\n}`;
  return { source, functions: [...functions] };
}

function compile(gpu: GpuContext, program: Program): KernelSource {
  const { source, functions } = kernelFunction(program);
  // The library's 0 is the unused fourth size of the first array.
  const library = libraryFor(functions.map(({ body }) => body).join("\n")).replaceAll(
    "p[0].w",
    "params.user_x0_dims.w",
  );
  return translate(gpu.library, source, program.inputs, program.params, functions, library);
}

/** Does gpu.js take the program? It knows no infinity. */
const taken = new WeakMap<Program, boolean>();
function takes(program: Program): boolean {
  let answer = taken.get(program);
  if (answer === undefined) {
    const finite = topological(program.root).every(({ node }) => node.kind !== "const" || Number.isFinite(node.value));
    answer = finite && program.inputs > 0;
    taken.set(program, answer);
  }
  return answer;
}

/** Runs `out = program(inputs, params)` as a kernel of gpu.js; false where it is none for it. */
export function fused(
  gpu: GpuContext,
  program: Program,
  params: readonly number[],
  inputs: readonly View[],
  out: View,
): boolean {
  if (!takes(program) || inputs.length >= gpu.limits.maxStorageBuffersPerShaderStage) return false;
  const views = [...inputs, out];
  const n = sizeOf(out.shape);
  if (n === 0) return true;
  const dense = ({ dtype, shape, strides }: View): boolean => dtype === "f32" && isContiguous(shape, strides);
  if (!views.every((view) => dense(view) && gpu.fits(view))) return false;
  if (inputs.some(({ storage }) => storage === out.storage)) return false;
  const bindings: Binding[] = [];
  for (const view of views) {
    const binding = gpu.window(view, "elementwise");
    if (!binding) return false;
    bindings.push(binding);
  }
  const [x, y] = gpu.spread(Math.ceil(n / GPUJS_ITEMS));
  const words: Word[] = [n, 1, 1, x * GPUJS_ITEMS];
  for (const _ of inputs) words.push(n, 1, 1, 0);
  for (const value of params) words.push({ f32: value });
  const kernel = gpu.kernel(`gpu.js ${program.key}`, () => compile(gpu, program));
  gpu.run(kernel, words, bindings, [x, y]);
  return true;
}
