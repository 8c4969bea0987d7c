// Pieces of WGSL that kernels are put together from.
import type { DType } from "../../dtype.ts";

/** Invocations in a workgroup of kernels that work element by element. */
export const ITEMS = 64;

/** Where parameter number `slot` of a kernel lies: parameters are an array of vec4<u32>. */
export function slot(index: number): string {
  return `p[${index >> 2}].${"xyzw"[index & 3]}`;
}

/** The declaration of `count` parameters. */
export function parameters(count: number): string {
  return `@group(0) @binding(0) var<uniform> p: array<vec4<u32>, ${Math.max(1, Math.ceil(count / 4))}>;\n`;
}

/** Storage bindings 1, 2, …, named b1, b2, …: words, whatever they hold. `a` is for words that several invocations write. */
export function storages(access: string): string {
  return [...access]
    .map((letter, i) => {
      const mode = letter === "r" ? "read" : "read_write";
      const type = letter === "a" ? "atomic<u32>" : "u32";
      return `@group(0) @binding(${i + 1}) var<storage, ${mode}> b${i + 1}: array<${type}>;`;
    })
    .join("\n");
}

/** The entry point: `body` sees the invocation's number `i` among `count`. */
export function eachItem(count: string, body: string): string {
  return `
@compute @workgroup_size(${ITEMS})
fn main(@builtin(workgroup_id) w: vec3u, @builtin(num_workgroups) nw: vec3u, @builtin(local_invocation_index) l: u32) {
  let i = (w.x + w.y * nw.x) * ${ITEMS}u + l;
  if (i >= ${count}) { return; }
${body}
}`;
}

/** The entry point of one workgroup of `size` an item: `body` sees the item `i` and the invocation's number `l` in it. */
export function eachGroup(count: string, size: number, body: string): string {
  return `
@compute @workgroup_size(${size})
fn main(@builtin(workgroup_id) w: vec3u, @builtin(num_workgroups) nw: vec3u, @builtin(local_invocation_index) l: u32) {
  let i = w.x + w.y * nw.x;
  if (i >= ${count}) { return; }
${body}
}`;
}

/** The value of element `at` of binding `b`, as f32, or as i32 for that type. `atomic` as in {@link storages}. */
export function load(b: string, dtype: DType, at: string, atomic = false): string {
  const word = (index: string): string => (atomic ? `atomicLoad(&${b}[${index}])` : `${b}[${index}]`);
  if (dtype === "bf16") return `bf16_at(${word(`(${at}) >> 1u`)}, ${at})`;
  return `bitcast<${dtype === "i32" ? "i32" : "f32"}>(${word(at)})`;
}

/** Statements that store `value` (of {@link load}'s type) as element `at`; bf16 needs an atomic binding. */
export function store(b: string, dtype: DType, at: string, value: string): string {
  if (dtype !== "bf16") return `${b}[${at}] = bitcast<u32>(${value});`;
  // Two elements share a word: each clears and sets its own half.
  return `{
    let shift = ((${at}) & 1u) << 4u;
    atomicAnd(&${b}[(${at}) >> 1u], ~(0xffffu << shift));
    atomicOr(&${b}[(${at}) >> 1u], bf16_of(${value}) << shift);
  }`;
}

/** The letter of a binding that is written with elements of this type. */
export function written(dtype: DType): "w" | "a" {
  return dtype === "bf16" ? "a" : "w";
}

const polynomial = (x: string, coefficients: readonly number[]): string =>
  coefficients.map((c) => `${c}f`).reduce((sum, c) => `fma(${sum}, ${x}, ${c})`);

/**
 * Functions in WGSL, by name, with those that they call. WGSL lets its own be wrong by many units in the last place, and a
 * shader compiler may assume that there is no NaN or infinity: so they are made of polynomials (S. Moshier's Cephes
 * library, single precision), and NaN is found by its bits. `nan()` and `inf()` come from the kernel's parameters,
 * because WGSL has no literals for them.
 */
const LIBRARY: { readonly [name: string]: { readonly needs: readonly string[]; readonly code: string } } = {
  bf16_at: {
    needs: [],
    code: "fn bf16_at(w: u32, at: u32) -> f32 { return bitcast<f32>(select(w << 16u, w & 0xffff0000u, (at & 1u) == 1u)); }",
  },
  bf16_of: {
    needs: [],
    code: `fn bf16_of(x: f32) -> u32 {
  let u = bitcast<u32>(x);
  return select((u + 0x7fffu + ((u >> 16u) & 1u)) >> 16u, (u >> 16u) | 0x40u, (u & 0x7fffffffu) > 0x7f800000u);
}`,
  },
  is_nan: {
    needs: [],
    code: "fn is_nan(x: f32) -> bool { return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u; }",
  },
  is_inf: {
    needs: [],
    code: "fn is_inf(x: f32) -> bool { return (bitcast<u32>(x) & 0x7fffffffu) == 0x7f800000u; }",
  },
  // Multiplied by what is not known when compiling, bits stay bits.
  nan: { needs: [], code: "fn nan() -> f32 { return bitcast<f32>(p[0].w | 0x7fc00000u); }" },
  inf: { needs: [], code: "fn inf() -> f32 { return bitcast<f32>(p[0].w | 0x7f800000u); }" },
  is_true: { needs: [], code: "fn is_true(x: f32) -> bool { return (bitcast<u32>(x) & 0x7fffffffu) != 0u; }" },
  max_of: {
    needs: ["is_nan"],
    code: "fn max_of(a: f32, b: f32) -> f32 { return select(select(select(b, a, a > b), b, is_nan(b)), a, is_nan(a)); }",
  },
  min_of: {
    needs: ["is_nan"],
    code: "fn min_of(a: f32, b: f32) -> f32 { return select(select(select(b, a, a < b), b, is_nan(b)), a, is_nan(a)); }",
  },
  lt_of: {
    needs: ["is_nan"],
    code: "fn lt_of(a: f32, b: f32) -> i32 { return select(0i, 1i, a < b && !is_nan(a) && !is_nan(b)); }",
  },
  le_of: {
    needs: ["is_nan"],
    code: "fn le_of(a: f32, b: f32) -> i32 { return select(0i, 1i, a <= b && !is_nan(a) && !is_nan(b)); }",
  },
  eq_of: {
    needs: ["is_nan"],
    code: "fn eq_of(a: f32, b: f32) -> i32 { return select(0i, 1i, a == b && !is_nan(a) && !is_nan(b)); }",
  },
  sign_of: { needs: ["is_nan"], code: "fn sign_of(x: f32) -> f32 { return select(sign(x), x, is_nan(x)); }" },
  sqrt_of: {
    needs: ["nan", "is_nan", "is_inf"],
    code: `fn sqrt_of(x: f32) -> f32 {
  if (x == 0.0 || is_nan(x)) { return x; }
  if (x < 0.0) { return nan(); }
  if (is_inf(x)) { return x; }
  // One step of Newton's method: a GPU's own root may be off by a few units in the last place.
  let y = sqrt(x);
  let near = fma(fma(-y, y, x), 0.5 / y, y);
  return select(near, y, y == 0.0);
}`,
  },
  // A sum that is added as it is: compilers reorder terms, and small ones that come first are lost.
  opaque: { needs: [], code: "fn opaque(x: f32) -> f32 { return bitcast<f32>(bitcast<u32>(x) | p[0].w); }" },
  exp_of: {
    needs: ["is_nan", "inf", "opaque"],
    code: `fn exp_of(x: f32) -> f32 {
  if (is_nan(x)) { return x; }
  if (x > 88.8) { return inf(); }
  if (x < -104.0) { return 0.0; }
  let n = round(x * ${Math.fround(Math.LOG2E)}f);
  let r = fma(n, 2.1219444e-4f, opaque(fma(n, -0.693359375f, x)));
  let f = fma(${polynomial("r", [1.98756915e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1])}, r * r, r) + 1.0;
  // 2ⁿ in two factors, because n reaches from −150 to 128.
  let whole = i32(n);
  let half = whole >> 1u;
  let y = f * bitcast<f32>((half + 127) << 23u) * bitcast<f32>((whole - half + 127) << 23u);
  return select(y, inf(), x > 88.722839);
}`,
  },
  log_of: {
    needs: ["is_nan", "is_inf", "nan", "inf", "opaque"],
    code: `fn log_of(x: f32) -> f32 {
  if (is_nan(x)) { return x; }
  if (x == 0.0) { return -inf(); }
  if (x < 0.0) { return nan(); }
  if (is_inf(x)) { return x; }
  let small = x < 1.17549435e-38f;
  let bits = bitcast<i32>(select(x, x * 16777216.0, small));
  // Mantissa in [√½, √2): the exponent counts from √½ up.
  let exponent = (bits - 0x3f3504f3) >> 23u;
  let m = bitcast<f32>(bits - (exponent << 23u)) - 1.0;
  let e = f32(exponent) - select(0.0, 24.0, small);
  let z = m * m;
  let tail = ${polynomial("m", [7.0376836292e-2, -1.151461031e-1, 1.167699874e-1, -1.2420140846e-1, 1.4249322787e-1, -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1])} * m * z;
  return fma(e, 0.693359375f, opaque(m + opaque(fma(e, -2.1219444e-4f, tail) - 0.5 * z)));
}`,
  },
  turn: {
    needs: ["nan", "is_nan", "is_inf", "opaque"],
    // The quarter turns in x and the rest, π/2 in three parts of which the first two have few bits.
    code: `fn turn(x: f32) -> vec2f {
  let n = round(x * ${Math.fround(2 / Math.PI)}f);
  return vec2f(n, fma(n, -7.54978995489188216e-8f, opaque(fma(n, -4.837512969970703125e-4f, opaque(fma(n, -1.5703125f, x))))));
}
fn sin_poly(r: f32) -> f32 {
  let z = r * r;
  return fma(fma(fma(-1.9515295891e-4f, z, 8.3321608736e-3f), z, -1.6666654611e-1f) * z, r, r);
}
fn cos_poly(r: f32) -> f32 {
  let z = r * r;
  return fma(fma(fma(2.443315711809948e-5f, z, -1.388731625493765e-3f), z, 4.166664568298827e-2f) * z, z, fma(z, -0.5, 1.0));
}
// The sine of quarter + r·(rest): quarter turns modulo 4 choose the polynomial and its sign.
fn quarter_sin(n: i32, r: f32) -> f32 {
  let y = select(sin_poly(r), cos_poly(r), (n & 1) == 1);
  return select(y, -y, (n & 2) == 2);
}`,
  },
  sin_of: {
    needs: ["turn"],
    code: `fn sin_of(x: f32) -> f32 {
  if (is_nan(x) || is_inf(x)) { return nan(); }
  let t = turn(x);
  return quarter_sin(i32(t.x), t.y);
}`,
  },
  cos_of: {
    needs: ["turn"],
    code: `fn cos_of(x: f32) -> f32 {
  if (is_nan(x) || is_inf(x)) { return nan(); }
  let t = turn(x);
  return quarter_sin(i32(t.x) + 1, t.y);
}`,
  },
  tanh_of: {
    needs: ["exp_of"],
    code: `fn tanh_of(x: f32) -> f32 {
  if (is_nan(x)) { return x; }
  let z = x * x;
  let near = fma(${polynomial("z", [-5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1])} * z, x, x);
  let far = 1.0 - 2.0 / (exp_of(min(2.0 * abs(x), 40.0)) + 1.0);
  return select(select(far, -far, x < 0.0), near, abs(x) < 0.625);
}`,
  },
  erf_of: {
    needs: ["exp_of"],
    // Below 1 the Taylor series; above, erfc as exp(−x²)·t·(polynomial in t) (W. J. Cody's form, Numerical Recipes 6.2.2).
    code: `fn erf_of(x: f32) -> f32 {
  if (is_nan(x)) { return x; }
  let a = abs(x);
  let z = x * x;
  let near = x * ${polynomial("z", erfSeries())};
  let t = 1.0 / fma(0.5, a, 1.0);
  let q = ${polynomial("t", [0.17087277, -0.82215223, 1.48851587, -1.13520398, 0.27886807, -0.18628806, 0.09678418, 0.37409196, 1.00002368, -1.26551223])};
  let far = 1.0 - t * exp_of(max(q - z, -100.0));
  return select(select(far, -far, x < 0.0), near, a < 1.0);
}`,
  },
  pow_of: {
    needs: ["exp_of", "log_of"],
    code: `fn pow_of(a: f32, b: f32) -> f32 {
  if (b == 0.0 && !is_nan(b)) { return 1.0; }
  if (a == 1.0 && !is_nan(a)) { return 1.0; }
  if (is_nan(a) || is_nan(b)) { return nan(); }
  let whole = is_inf(b) || floor(b) == b;
  let odd = whole && abs(b) < 16777216.0 && (i32(b) & 1) == 1;
  let size = abs(a);
  if (is_inf(b)) {
    if (size == 1.0) { return 1.0; }
    return select(0.0, inf(), (size > 1.0) == (b > 0.0));
  }
  if (size == 0.0 || is_inf(a)) {
    let big = (size == 0.0) == (b < 0.0);
    let y = select(0.0, inf(), big);
    return select(y, -y, odd && (bitcast<u32>(a) >> 31u) == 1u);
  }
  if (a < 0.0 && !whole) { return nan(); }
  var y = exp_of(b * log_of(size));
  // Small whole powers by multiplication, exact where the result is.
  if (whole && abs(b) <= 4.0) {
    let n = i32(abs(b));
    var product = size;
    for (var k = 1; k < n; k++) { product *= size; }
    y = select(product, 1.0 / product, b < 0.0);
  } else if (b == 0.5) { y = sqrt(size); }
  return select(y, -y, a < 0.0 && odd);
}`,
  },
  // Upper 32 bits of a product, from 16-bit halves.
  philox: {
    needs: [],
    code: `fn mul_high(a: u32, b: u32) -> u32 {
  let a0 = a & 0xffffu;
  let a1 = a >> 16u;
  let b0 = b & 0xffffu;
  let b1 = b >> 16u;
  let middle = a1 * b0 + ((a0 * b0) >> 16u);
  return a1 * b1 + (middle >> 16u) + ((a0 * b1 + (middle & 0xffffu)) >> 16u);
}
// Philox 4x32-10 (Salmon et al., 2011).
fn philox(counter: vec4u, key: vec2u) -> vec4u {
  var c = counter;
  var k = key;
  for (var round = 0; round < 10; round++) {
    c = vec4u(mul_high(0xcd9e8d57u, c.z) ^ c.y ^ k.x, 0xcd9e8d57u * c.z, mul_high(0xd2511f53u, c.x) ^ c.w ^ k.y, 0xd2511f53u * c.x);
    k += vec2u(0x9e3779b9u, 0xbb67ae85u);
  }
  return c;
}`,
  },
};

/** Coefficients of erf(x)/x in x², from the highest power down: 2/√π·(−1)ⁿ/(n!·(2n+1)). */
function erfSeries(): number[] {
  const found: number[] = [];
  for (let n = 0, factorial = 1; n < 12; n++, factorial *= n) {
    found.unshift(((n % 2 ? -1 : 1) * 2) / Math.sqrt(Math.PI) / factorial / (2 * n + 1));
  }
  return found;
}

/** The library functions that the code calls. Kernels that use any keep parameter 3 at 0. */
export function libraryFor(code: string): string {
  const wanted = new Set<string>();
  const want = (name: string): void => {
    for (const other of LIBRARY[name].needs) want(other);
    wanted.add(name);
  };
  for (const name of Object.keys(LIBRARY)) if (new RegExp(`\\b${name}\\(`).test(code)) want(name);
  return [...wanted].map((name) => LIBRARY[name].code).join("\n");
}
