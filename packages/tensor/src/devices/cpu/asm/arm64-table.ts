/**
 * The A64 instructions in use on vectors and memory, by name: the word with all register fields 0 and how GNU as writes
 * the operands. What follows `_` in a name tells forms of one mnemonic apart. (Arm ARM, DDI 0487, C4 and C7.)
 */

/** How an immediate enters the word. */
export type ImmediateField =
  /** Shifts of 32-bit lanes, and of bytes: immh:immb. */
  | "left32"
  | "right32"
  | "left8"
  | "right8"
  /** Number of a 32-bit element: H:L. */
  | "element32"
  /** First byte of `ext`. */
  | "byte"
  /** Condition of `fcsel`. */
  | "condition";

export interface VectorEncoding {
  readonly word: number;
  /** Operands with `{d}`, `{n}`, `{m}`, `{a}` for register numbers and `{i}` for the immediate. */
  readonly text: string;
  readonly immediate?: ImmediateField;
}

const same = "v{d}.4s, v{n}.4s, v{m}.4s";
const bytes = "v{d}.16b, v{n}.16b, v{m}.16b";
const doubles = "v{d}.2d, v{n}.2d, v{m}.2d";
const byElement = "v{d}.4s, v{n}.4s, v{m}.s[{i}]";
const pair = "v{d}.4s, v{n}.4s";
const scalar = "s{d}, s{n}, s{m}";
const scalarPair = "s{d}, s{n}";

export const vectorInstructions = {
  fadd: { word: 0x4e20d400, text: same },
  fsub: { word: 0x4ea0d400, text: same },
  fmul: { word: 0x6e20dc00, text: same },
  fdiv: { word: 0x6e20fc00, text: same },
  fmla: { word: 0x4e20cc00, text: same },
  fmls: { word: 0x4ea0cc00, text: same },
  fcmeq: { word: 0x4e20e400, text: same },
  fcmge: { word: 0x6e20e400, text: same },
  fcmgt: { word: 0x6ea0e400, text: same },
  add: { word: 0x4ea08400, text: same },
  sub: { word: 0x6ea08400, text: same },
  mul: { word: 0x4ea09c00, text: same },
  smin: { word: 0x4ea06c00, text: same },
  smax: { word: 0x4ea06400, text: same },
  cmeq: { word: 0x6ea08c00, text: same },
  cmgt: { word: 0x4ea03400, text: same },
  zip1: { word: 0x4e803800, text: same },
  zip2: { word: 0x4e807800, text: same },
  zip1_2d: { word: 0x4ec03800, text: doubles },
  zip2_2d: { word: 0x4ec07800, text: doubles },
  cmeq_16b: { word: 0x6e208c00, text: bytes },
  and: { word: 0x4e201c00, text: bytes },
  bic: { word: 0x4e601c00, text: bytes },
  orr: { word: 0x4ea01c00, text: bytes },
  eor: { word: 0x6e201c00, text: bytes },
  bsl: { word: 0x6e601c00, text: bytes },
  bit: { word: 0x6ea01c00, text: bytes },
  bif: { word: 0x6ee01c00, text: bytes },
  tbl: { word: 0x4e000000, text: "v{d}.16b, {v{n}.16b}, v{m}.16b" },
  smull: { word: 0x0e20c000, text: "v{d}.8h, v{n}.8b, v{m}.8b" },
  smull2: { word: 0x4e20c000, text: "v{d}.8h, v{n}.16b, v{m}.16b" },
  sdot: { word: 0x4e809400, text: "v{d}.4s, v{n}.16b, v{m}.16b" },
  ext: { word: 0x6e000000, text: `${bytes}, #{i}`, immediate: "byte" },

  fmla_element: { word: 0x4f801000, text: byElement, immediate: "element32" },
  fmls_element: { word: 0x4f805000, text: byElement, immediate: "element32" },
  fmul_element: { word: 0x4f809000, text: byElement, immediate: "element32" },

  mvn: { word: 0x6e205800, text: "v{d}.16b, v{n}.16b" },
  fsqrt: { word: 0x6ea1f800, text: pair },
  frintn: { word: 0x4e218800, text: pair },
  frintm: { word: 0x4e219800, text: pair },
  fcvtns: { word: 0x4e21a800, text: pair },
  scvtf: { word: 0x4e21d800, text: pair },
  saddlp: { word: 0x4e602800, text: "v{d}.4s, v{n}.8h" },
  sadalp: { word: 0x4e606800, text: "v{d}.4s, v{n}.8h" },
  trn2: { word: 0x4e806800, text: same },
  umull_2d: { word: 0x2ea0c000, text: "v{d}.2d, v{n}.2s, v{m}.2s" },
  xtn_2s: { word: 0x0ea12800, text: "v{d}.2s, v{n}.2d" },
  sqxtn: { word: 0x0e614800, text: "v{d}.4h, v{n}.4s" },
  sqxtn2: { word: 0x4e614800, text: "v{d}.8h, v{n}.4s" },
  sqxtn_8b: { word: 0x0e214800, text: "v{d}.8b, v{n}.8h" },
  sqxtn2_16b: { word: 0x4e214800, text: "v{d}.16b, v{n}.8h" },
  sqxtun: { word: 0x2e612800, text: "v{d}.4h, v{n}.4s" },
  shll: { word: 0x2e613800, text: "v{d}.4s, v{n}.4h, #16" },
  fcvtl: { word: 0x0e217800, text: "v{d}.4s, v{n}.4h" },

  shl: { word: 0x4f005400, text: `${pair}, #{i}`, immediate: "left32" },
  ushr: { word: 0x6f000400, text: `${pair}, #{i}`, immediate: "right32" },
  sshr: { word: 0x4f000400, text: `${pair}, #{i}`, immediate: "right32" },
  shl_16b: { word: 0x4f005400, text: "v{d}.16b, v{n}.16b, #{i}", immediate: "left8" },
  ushr_16b: { word: 0x6f000400, text: "v{d}.16b, v{n}.16b, #{i}", immediate: "right8" },
  uxtl: { word: 0x2f10a400, text: "v{d}.4s, v{n}.4h" },
  sxtl: { word: 0x0f10a400, text: "v{d}.4s, v{n}.4h" },
  uxtl_8h: { word: 0x2f08a400, text: "v{d}.8h, v{n}.8b" },
  sxtl_8h: { word: 0x0f08a400, text: "v{d}.8h, v{n}.8b" },

  dup: { word: 0x4e040400, text: "v{d}.4s, v{n}.s[0]" },
  dup_8h: { word: 0x4e020400, text: "v{d}.8h, v{n}.h[0]" },
  dup_w: { word: 0x4e040c00, text: "v{d}.4s, w{n}" },

  fadd_s: { word: 0x1e202800, text: scalar },
  fsub_s: { word: 0x1e203800, text: scalar },
  fmul_s: { word: 0x1e200800, text: scalar },
  fdiv_s: { word: 0x1e201800, text: scalar },
  fsqrt_s: { word: 0x1e21c000, text: scalarPair },
  faddp_s: { word: 0x7e30d800, text: "s{d}, v{n}.2s" },
  fcmp_s: { word: 0x1e202000, text: "s{n}, s{m}" },
  fcsel_s: { word: 0x1e200c00, text: `${scalar}, {i}`, immediate: "condition" },
  fmadd_s: { word: 0x1f000000, text: `${scalar}, s{a}` },
  fmsub_s: { word: 0x1f008000, text: `${scalar}, s{a}` },
  scvtf_s: { word: 0x9e220000, text: "s{d}, x{n}" },
  fcvt_s: { word: 0x1ee24000, text: "s{d}, h{n}" },
} as const satisfies Record<string, VectorEncoding>;

export type VectorName = keyof typeof vectorInstructions;

export interface MemoryEncoding {
  /** The form with a scaled offset of 12 bits; the others follow from it. */
  readonly word: number;
  readonly bytes: 1 | 2 | 4 | 8 | 16;
  /** Kind of the register, as GNU as names it. */
  readonly register: "x" | "w" | "q" | "d" | "s" | "h" | "prefetch";
}

export const memoryInstructions = {
  ldr_q: { word: 0x3dc00000, bytes: 16, register: "q" },
  str_q: { word: 0x3d800000, bytes: 16, register: "q" },
  ldr_d: { word: 0xfd400000, bytes: 8, register: "d" },
  str_d: { word: 0xfd000000, bytes: 8, register: "d" },
  ldr_s: { word: 0xbd400000, bytes: 4, register: "s" },
  str_s: { word: 0xbd000000, bytes: 4, register: "s" },
  ldr_h: { word: 0x7d400000, bytes: 2, register: "h" },
  ldr_x: { word: 0xf9400000, bytes: 8, register: "x" },
  str_x: { word: 0xf9000000, bytes: 8, register: "x" },
  ldrsw: { word: 0xb9800000, bytes: 4, register: "x" },
  str_w: { word: 0xb9000000, bytes: 4, register: "w" },
  ldrsh: { word: 0x79800000, bytes: 2, register: "x" },
  ldrh: { word: 0x79400000, bytes: 2, register: "w" },
  strh: { word: 0x79000000, bytes: 2, register: "w" },
  ldrsb: { word: 0x39800000, bytes: 1, register: "x" },
  ldrb: { word: 0x39400000, bytes: 1, register: "w" },
  strb: { word: 0x39000000, bytes: 1, register: "w" },
  prfm: { word: 0xf9800000, bytes: 8, register: "prefetch" },
} as const satisfies Record<string, MemoryEncoding>;

export type MemoryName = keyof typeof memoryInstructions;
