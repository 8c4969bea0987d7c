// gpu.js' own backends, for machines without WebGPU: WebGL 2, WebAssembly and JavaScript. Kernels run as gpu.js runs them.
import { DeviceError } from "../../../errors.ts";

/** Backends of gpu.js besides WebGPU, in its order. */
export const FALLBACKS = ["webgl2", "webasm", "cpu"] as const;

/** A backend of {@link FALLBACKS}. */
export type FallbackName = (typeof FALLBACKS)[number];

/** A texture of gpu.js; its WebAssembly and JavaScript give plain arrays instead. */
interface Texture {
  toArray(): Float32Array;
  delete(): void;
}

/** f32 numbers where kernels read them. */
export type Handle = Texture | Float32Array;

interface Kernel {
  (...args: (Handle | number)[]): Handle;
  setOutput(size: number[]): void;
}

interface GpuJsInstance {
  createKernel(source: string, settings: object): Kernel;
  addFunction(source: string, settings: object): void;
  injectNative(source: string): void;
  destroy(): Promise<void>;
  readonly context: unknown;
}

/** The part of the module `gpu.js` that runs kernels. */
export interface GpuJsRunner {
  readonly GPU: {
    new (settings: { mode: string }): GpuJsInstance;
    readonly isWebGL2Supported: boolean;
    readonly isWebAssemblySupported: boolean;
  };
}

/**
 * Whole numbers above this are not all f32: storages with more elements, and indices that reach beyond, are not for these
 * kernels, in which every number is an f32.
 */
export const MOST_ELEMENTS = 2 ** 24;

/** A kernel function of gpu.js: arrays x0, x1, … come first, then numbers, by the names given. */
export interface Source {
  readonly arrays: number;
  readonly numbers: readonly string[];
  readonly body: string;
}

/** Functions that kernels call. Sums stay in order, and what GLSL leaves open (NaN, halves, powers of negative numbers) is said. */
const FUNCTIONS: readonly (readonly [text: string, inputs: number])[] = [
  // Division may be rounded wrongly; the product and the difference are exact.
  [
    `function quotient(i, n) {
  let q = Math.floor(i / n);
  const r = i - q * n;
  if (r < 0) { q = q - 1; }
  if (r >= n) { q = q + 1; }
  return q;
}`,
    2,
  ],
  ["function isNan(a) { if (a < 0 || a >= 0) { return 0; } return 1; }", 1],
  [
    `function powerOfTwo(n) {
  let result = 1;
  let base = 2;
  if (n < 0) { base = 0.5; }
  let rest = Math.abs(n);
  for (let bit = 0; bit < 7; bit++) {
    const half = Math.floor(rest / 2);
    if (rest - 2 * half > 0.5) { result = result * base; }
    base = base * base;
    rest = half;
  }
  return result;
}`,
    1,
  ],
  // GLSL's own exp and log may be off by many units in the last place. Cephes' polynomials, as in shader.ts.
  [
    `function expOf(a) {
  if (isNan(a) > 0) { return a; }
  if (isNan(a - a) > 0) {
    if (a > 0) { return a; }
    return 0;
  }
  if (a > 88.8) { return powerOfTwo(100) * powerOfTwo(100); }
  if (a < -104) { return 0; }
  const n = Math.floor(a * 1.4426950408889634 + 0.5);
  const high = a - n * 0.693359375;
  const r = high + n * 0.00021219444;
  const y = ((((((0.00019875691500 * r + 0.0013981999507) * r + 0.0083334519073) * r + 0.041665795894) * r + 0.16666665459) * r + 0.50000001201) * r * r + r) + 1;
  const half = Math.floor(n / 2);
  return y * powerOfTwo(half) * powerOfTwo(n - half);
}`,
    1,
  ],
  [
    `function logOf(a) {
  if (isNan(a - a) > 0) {
    if (a < 0) { return a - a; }
    return a;
  }
  if (a < 0) { return (a - a) / (a - a); }
  if (a <= 0) { return -1 / Math.abs(a); }
  let e = Math.floor(Math.log(a) * 1.4426950408889634 + 0.5);
  const half = Math.floor(e / 2);
  let m = a * powerOfTwo(-half) * powerOfTwo(half - e);
  if (m > 1.4142135) { m = m * 0.5; e = e + 1; }
  if (m < 0.70710677) { m = m * 2; e = e - 1; }
  const x = m - 1;
  const z = x * x;
  const tail = ((((((((0.070376836292 * x - 0.1151461031) * x + 0.1167699874) * x - 0.12420140846) * x + 0.14249322787) * x - 0.16668057665) * x + 0.20000714765) * x - 0.24999993993) * x + 0.33333331174) * x * z;
  const low = tail - e * 0.00021219444 - 0.5 * z;
  return x + low + e * 0.693359375;
}`,
    1,
  ],
  // The quarter turns in a, and what is left, π/2 being taken in three parts of which the first two have few bits. GLSL's own
  // sine may be off by 2⁻¹¹.
  [
    `function turned(a, n) {
  const first = a - n * 1.5703125;
  const second = first - n * 0.0004837512969970703125;
  return second - n * 0.0000000754978995489188216;
}`,
    2,
  ],
  [
    `function quarterSine(n, r) {
  const z = r * r;
  const quarter = n - 4 * Math.floor(n / 4);
  let y = ((-0.00019515295891 * z + 0.0083321608736) * z - 0.16666654611) * z * r + r;
  if (quarter > 0.5 && quarter < 1.5 || quarter > 2.5) {
    y = ((0.00002443315711809948 * z - 0.001388731625493765) * z + 0.04166664568298827) * z * z - 0.5 * z + 1;
  }
  if (quarter > 1.5) { y = -y; }
  return y;
}`,
    2,
  ],
  [
    `function sinOf(a) {
  if (isNan(a - a) > 0) { return a - a; }
  const n = Math.floor(a * 0.6366197723675814 + 0.5);
  return quarterSine(n, turned(a, n));
}`,
    1,
  ],
  [
    `function cosOf(a) {
  if (isNan(a - a) > 0) { return a - a; }
  const n = Math.floor(a * 0.6366197723675814 + 0.5);
  return quarterSine(n + 1, turned(a, n));
}`,
    1,
  ],
  ["function signOf(a) { if (a > 0) { return 1; } if (a < 0) { return -1; } return a; }", 1],
  [
    `function roundOf(a) {
  const low = Math.floor(a);
  const rest = a - low;
  if (rest < 0.5) { return low; }
  if (rest > 0.5) { return low + 1; }
  const half = Math.floor(low / 2);
  if (low - 2 * half > 0.5) { return low + 1; }
  return low;
}`,
    1,
  ],
  [
    "function maxOf(a, b) { if (isNan(a) > 0) { return a; } if (isNan(b) > 0) { return b; } return Math.max(a, b); }",
    2,
  ],
  [
    "function minOf(a, b) { if (isNan(a) > 0) { return a; } if (isNan(b) > 0) { return b; } return Math.min(a, b); }",
    2,
  ],
  ["function ltOf(a, b) { if (a < b) { return 1; } return 0; }", 2],
  ["function leOf(a, b) { if (a <= b) { return 1; } return 0; }", 2],
  ["function eqOf(a, b) { if (a <= b && a >= b) { return 1; } return 0; }", 2],
  ["function neOf(a, b) { if (a <= b && a >= b) { return 0; } return 1; }", 2],
  ["function selectOf(t, a, b) { if (t <= 0 && t >= 0) { return b; } return a; }", 3],
  [
    `function tanhOf(a) {
  const size = Math.abs(a);
  if (size < 0.625) {
    const z = a * a;
    return ((((-0.00570498872745 * z + 0.0206390887954) * z - 0.0537397155531) * z + 0.133314422036) * z - 0.333332819422) * z * a + a;
  }
  if (isNan(a) > 0) { return a; }
  const far = 1 - 2 / (expOf(Math.min(2 * size, 40)) + 1);
  if (a < 0) { return -far; }
  return far;
}`,
    1,
  ],
  [
    // The Taylor series below 1, W. J. Cody's form of erfc above (Numerical Recipes 6.2.2).
    `function erfOf(a) {
  const size = Math.abs(a);
  if (size < 1) {
    const z = a * a;
    let term = 1.1283791670955126 * a;
    let sum = term;
    for (let n = 1; n < 12; n++) {
      term = -term * z / n;
      sum = sum + term / (2 * n + 1);
    }
    return sum;
  }
  if (isNan(a) > 0) { return a; }
  const t = 1 / (1 + 0.5 * size);
  const q = ((((((((0.17087277 * t - 0.82215223) * t + 1.48851587) * t - 1.13520398) * t + 0.27886807) * t - 0.18628806) * t + 0.09678418) * t + 0.37409196) * t + 1.00002368) * t - 1.26551223;
  const far = 1 - t * expOf(Math.max(q - size * size, -100));
  if (a < 0) { return -far; }
  return far;
}`,
    1,
  ],
  [
    `function powOf(a, b) {
  if (b <= 0 && b >= 0) { return 1; }
  if (a <= 1 && a >= 1) { return 1; }
  if (isNan(a) > 0) { return a; }
  if (isNan(b) > 0) { return b; }
  const size = Math.abs(a);
  if (size <= 1 && size >= 1 && isNan(b - b) > 0) { return 1; }
  const whole = Math.floor(b);
  let y = expOf(b * logOf(size));
  if (eqOf(whole, b) > 0 && Math.abs(b) <= 4) {
    y = size;
    if (Math.abs(b) >= 2) { y = y * size; }
    if (Math.abs(b) >= 3) { y = y * size; }
    if (Math.abs(b) >= 4) { y = y * size; }
    if (b < 0) { y = 1 / y; }
  }
  if (a < 0) {
    if (eqOf(whole, b) < 1) {
      if (isNan(a - a) > 0) { return y; }
      return (a - a) / (a - a);
    }
  }
  if (a < 0 || (a >= 0 && 1 / a < 0)) {
    const half = Math.floor(whole / 2);
    if (eqOf(whole, b) > 0 && whole - 2 * half > 0.5) { return -y; }
  }
  return y;
}`,
    2,
  ],
];

const declaration = ([text, inputs]: (typeof FUNCTIONS)[number]): string =>
  `float ${/function (\w+)/.exec(text)![1]}(${Array<string>(inputs).fill("float").join(", ")});`;

/** One of gpu.js' backends, ready to run kernels. */
export class Backend {
  readonly name: FallbackName;
  /** Kernels run, kernels compiled, arrays uploaded and brought back so far; for tests. */
  readonly counts = { kernels: 0, compiled: 0, uploads: 0, downloads: 0 };
  readonly #gpu: GpuJsInstance;
  readonly #kernels = new Map<string, Kernel>();

  private constructor(name: FallbackName, gpu: GpuJsInstance) {
    this.name = name;
    this.#gpu = gpu;
    // GLSL knows a function from its declaration on, and gpu.js does not always write those that others call first.
    if (name === "webgl2") gpu.injectNative(FUNCTIONS.map(declaration).join("\n"));
    for (const [text, inputs] of FUNCTIONS) {
      gpu.addFunction(text, { argumentTypes: Array<string>(inputs).fill("Number"), returnType: "Number" });
    }
  }

  /**
   * Opens a backend and multiplies a small matrix on it: what does not exist, or computes wrongly, is refused.
   * @throws DeviceError with the reason
   */
  static open(name: FallbackName, { GPU }: GpuJsRunner): Backend {
    const exists = { webgl2: () => GPU.isWebGL2Supported, webasm: () => GPU.isWebAssemblySupported, cpu: () => true };
    if (!exists[name]()) throw new DeviceError("gpu", `gpu.js finds no ${name} here`);
    let backend: Backend;
    try {
      backend = new Backend(name, new GPU({ mode: name }));
      backend.#verify();
    } catch (cause) {
      if (cause instanceof DeviceError) throw cause;
      throw new DeviceError("gpu", `${name} of gpu.js does not run: ${(cause as Error).message}`, { cause });
    }
    return backend;
  }

  #verify(): void {
    const n = 9;
    const a = Float32Array.from({ length: n * n }, (_, i) => ((i * 7919) % 31) - 15);
    const body = `const row = quotient(this.thread.x, n);
const column = this.thread.x - row * n;
let sum = 0;
for (let k = 0; k < n; k++) { sum = sum + x0[row * n + k] * x0[k * n + column]; }
return sum;`;
    const from = this.upload(a);
    const to = this.run("verify", () => ({ arrays: 1, numbers: ["n"], body }), n * n, [from], [n]);
    const c = this.download(to);
    for (const handle of [from, to]) this.free(handle);
    for (let i = 0; i < n * n; i++) {
      let sum = 0;
      for (let k = 0; k < n; k++) sum += a[Math.floor(i / n) * n + k] * a[k * n + (i % n)];
      // Whole numbers: exact in any order.
      if (c[i] !== sum) {
        throw new DeviceError("gpu", `${this.name} of gpu.js multiplies wrongly (${c[i]} for ${sum}): it is refused`);
      }
    }
    this.counts.downloads = 0;
  }

  #gl(): WebGL2RenderingContext | undefined {
    return this.name === "webgl2" ? (this.#gpu.context as WebGL2RenderingContext) : undefined;
  }

  /** What computes, in the driver's words where there is one. */
  describe(): string {
    const gl = this.#gl();
    return gl ? String(gl.getParameter(gl.RENDERER)) : this.name;
  }

  /** Limits that kernels meet. */
  limits(): Record<string, number> {
    const gl = this.#gl();
    if (!gl) return {};
    return {
      maxTextureSize: gl.getParameter(gl.MAX_TEXTURE_SIZE),
      maxTextureImageUnits: gl.getParameter(gl.MAX_TEXTURE_IMAGE_UNITS),
    };
  }

  /** Runs a kernel, made when its key is first seen, for results 0 to `size`. */
  run(key: string, make: () => Source, size: number, arrays: readonly Handle[], numbers: readonly number[]): Handle {
    let kernel = this.#kernels.get(key);
    if (!kernel) {
      const source = make();
      const names = [...Array.from({ length: source.arrays }, (_, i) => `x${i}`), ...source.numbers];
      kernel = this.#gpu.createKernel(`function (${names.join(", ")}) {\n${source.body}\n}`, {
        ...{ output: [size], dynamicOutput: true, dynamicArguments: true, pipeline: true, immutable: true },
        ...{ precision: "single", tactic: "precision", loopMaxIterations: MOST_ELEMENTS },
      });
      this.#kernels.set(key, kernel);
      this.counts.compiled++;
    }
    kernel.setOutput([size]);
    this.counts.kernels++;
    return kernel(...arrays, ...numbers);
  }

  /** Numbers to where kernels read them. */
  upload(values: Float32Array): Handle {
    this.counts.uploads++;
    if (this.name !== "webgl2") return values;
    const copy = () => ({ arrays: 1, numbers: [], body: "return x0[this.thread.x];" });
    return this.run("upload", copy, values.length, [values], []);
  }

  /** Waits for the numbers and copies them out. */
  download(handle: Handle): Float32Array {
    this.counts.downloads++;
    return handle instanceof Float32Array ? handle : handle.toArray();
  }

  free(handle: Handle): void {
    if (!(handle instanceof Float32Array)) handle.delete();
  }

  async dispose(): Promise<void> {
    this.#kernels.clear();
    await this.#gpu.destroy();
  }
}
