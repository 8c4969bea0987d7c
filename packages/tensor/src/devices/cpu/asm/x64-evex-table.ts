/** The EVEX instructions (AVX-512 F, BW, DQ, VL) the emitter uses, as data. Source: Intel SDM volume 2. */

import type { Form } from "./x64-table.ts";

/**
 * What an operand is: `x` a vector of the instruction's length, `h` of half, `r` of a quarter of it, `o` xmm, `k` a mask,
 * `g` a 32-bit general register.
 */
export interface EvexEncoding {
  readonly form: Form;
  readonly pp: 0 | 1 | 2 | 3;
  readonly map: 1 | 2 | 3;
  readonly opcode: number;
  readonly w: 0 | 1;
  /** Vector lengths in bits that exist; 0 for scalar instructions. */
  readonly lengths: readonly number[];
  readonly classes: string;
  /** Bytes of memory, as a share of the vector length or a fixed number: what a short displacement counts in. */
  readonly tuple: "full" | "half" | "quarter" | 2 | 4 | 16 | 32;
  /** Whether one 32-bit element of memory may stand for all lanes. */
  readonly broadcast: boolean;
  readonly digit?: number;
  readonly only?: "reg" | "mem";
}

type Options = Partial<Pick<EvexEncoding, "w" | "lengths" | "classes" | "tuple" | "broadcast" | "digit" | "only">>;

const ALL = [128, 256, 512];
const WIDE = [256, 512];
const CLASSES: Partial<Record<Form, string>> = {
  rvm: "xxx",
  rm: "xx",
  mr: "xx",
  rvmi: "xxx",
  rmi: "xx",
  mri: "xx",
  vmi: "xx",
};

function evex(form: Form, pp: 0 | 1 | 2 | 3, map: 1 | 2 | 3, opcode: number, options: Options = {}): EvexEncoding {
  const classes = CLASSES[form] ?? "";
  return { form, pp, map, opcode, w: 0, lengths: ALL, classes, tuple: "full", broadcast: false, ...options };
}

const each: Options = { broadcast: true };
const scalar: Options = { lengths: [0], classes: "ooo", tuple: 4 };
const widen: Options = { classes: "xh", tuple: "half" };
const widenTwice: Options = { classes: "xr", tuple: "quarter" };

export const evexInstructions = {
  // f32 vectors
  vaddps: evex("rvm", 0, 1, 0x58, each),
  vmulps: evex("rvm", 0, 1, 0x59, each),
  vsubps: evex("rvm", 0, 1, 0x5c, each),
  vdivps: evex("rvm", 0, 1, 0x5e, each),
  vminps: evex("rvm", 0, 1, 0x5d, each),
  vmaxps: evex("rvm", 0, 1, 0x5f, each),
  vsqrtps: evex("rm", 0, 1, 0x51, each),
  vunpcklps: evex("rvm", 0, 1, 0x14, each),
  vunpckhps: evex("rvm", 0, 1, 0x15, each),
  vunpcklpd: evex("rvm", 1, 1, 0x14, { w: 1 }),
  vunpckhpd: evex("rvm", 1, 1, 0x15, { w: 1 }),
  vcmpps: evex("rvmi", 0, 1, 0xc2, { classes: "kxx", broadcast: true }),
  vblendmps: evex("rvm", 1, 2, 0x65, each),
  vrndscaleps: evex("rmi", 1, 3, 0x08, each),
  vcvtdq2ps: evex("rm", 0, 1, 0x5b, each),
  vcvtps2dq: evex("rm", 1, 1, 0x5b, each),
  vcvtph2ps: evex("rm", 1, 2, 0x13, widen),
  vcvtneps2bf16: evex("rm", 2, 2, 0x72, { classes: "hx", only: "reg" }),
  vcvtne2ps2bf16: evex("rvm", 3, 2, 0x72, each),
  vmovshdup: evex("rm", 2, 1, 0x16),
  vmovhlps: evex("rvm", 0, 1, 0x12, { lengths: [128], only: "reg" }),
  vfmadd132ps: evex("rvm", 1, 2, 0x98, each),
  vfmadd213ps: evex("rvm", 1, 2, 0xa8, each),
  vfmadd231ps: evex("rvm", 1, 2, 0xb8, each),
  vfnmadd132ps: evex("rvm", 1, 2, 0x9c, each),
  vfnmadd213ps: evex("rvm", 1, 2, 0xac, each),
  vfnmadd231ps: evex("rvm", 1, 2, 0xbc, each),
  // f32 scalars
  vaddss: evex("rvm", 2, 1, 0x58, scalar),
  vmulss: evex("rvm", 2, 1, 0x59, scalar),
  vsubss: evex("rvm", 2, 1, 0x5c, scalar),
  vdivss: evex("rvm", 2, 1, 0x5e, scalar),
  vminss: evex("rvm", 2, 1, 0x5d, scalar),
  vmaxss: evex("rvm", 2, 1, 0x5f, scalar),
  vsqrtss: evex("rvm", 2, 1, 0x51, scalar),
  vfmadd213ss: evex("rvm", 1, 2, 0xa9, scalar),
  vfmadd231ss: evex("rvm", 1, 2, 0xb9, scalar),
  vfnmadd213ss: evex("rvm", 1, 2, 0xad, scalar),
  vfnmadd231ss: evex("rvm", 1, 2, 0xbd, scalar),
  vcvtsi2ss: evex("rvm", 2, 1, 0x2a, { lengths: [0], classes: "oog", tuple: 4, only: "reg" }),
  vmovss: evex("rm", 2, 1, 0x10, { lengths: [0], classes: "oo", tuple: 4, only: "mem" }),
  vmovss_store: evex("mr", 2, 1, 0x11, { lengths: [0], classes: "oo", tuple: 4, only: "mem" }),
  // integer vectors
  vpaddd: evex("rvm", 1, 1, 0xfe, each),
  vpsubd: evex("rvm", 1, 1, 0xfa, each),
  vpmulld: evex("rvm", 1, 2, 0x40, each),
  vpmuludq: evex("rvm", 1, 1, 0xf4, { w: 1 }),
  vpminsd: evex("rvm", 1, 2, 0x39, each),
  vpmaxsd: evex("rvm", 1, 2, 0x3d, each),
  vpandd: evex("rvm", 1, 1, 0xdb, each),
  vpord: evex("rvm", 1, 1, 0xeb, each),
  vpxord: evex("rvm", 1, 1, 0xef, each),
  vpcmpeqd: evex("rvm", 1, 1, 0x76, { classes: "kxx", broadcast: true }),
  vpcmpgtd: evex("rvm", 1, 1, 0x66, { classes: "kxx", broadcast: true }),
  vpslld: evex("vmi", 1, 1, 0x72, { digit: 6, broadcast: true }),
  vpsrld: evex("vmi", 1, 1, 0x72, { digit: 2, broadcast: true }),
  vpsrad: evex("vmi", 1, 1, 0x72, { digit: 4, broadcast: true }),
  vpmovzxwd: evex("rm", 1, 2, 0x33, widen),
  vpmovsxwd: evex("rm", 1, 2, 0x23, widen),
  vpmovzxbd: evex("rm", 1, 2, 0x31, widenTwice),
  vpmovsxbd: evex("rm", 1, 2, 0x21, widenTwice),
  vpmovdw_store: evex("mr", 2, 2, 0x33, { classes: "hx", tuple: "half" }),
  // moves
  vmovaps: evex("rm", 0, 1, 0x28),
  vmovups: evex("rm", 0, 1, 0x10),
  vmovups_store: evex("mr", 0, 1, 0x11, { only: "mem" }),
  vmovd: evex("rm", 1, 1, 0x6e, { lengths: [128], classes: "og", tuple: 4, only: "reg" }),
  vbroadcastss: evex("rm", 1, 2, 0x18, { classes: "xo", tuple: 4 }),
  vpbroadcastd: evex("rm", 1, 2, 0x7c, { classes: "xg", tuple: 4, only: "reg" }),
  vpbroadcastw: evex("rm", 1, 2, 0x79, { classes: "xo", tuple: 2 }),
  vbroadcastf32x4: evex("rm", 1, 2, 0x1a, { lengths: WIDE, tuple: 16, only: "mem" }),
  vinsertf32x4: evex("rvmi", 1, 3, 0x18, { lengths: WIDE, classes: "xxo", tuple: 16 }),
  vextractf32x4: evex("mri", 1, 3, 0x19, { lengths: WIDE, classes: "ox", tuple: 16 }),
  vextractf64x4: evex("mri", 1, 3, 0x1b, { lengths: [512], classes: "hx", tuple: 32, w: 1 }),
} satisfies Record<string, EvexEncoding>;

export type EvexName = keyof typeof evexInstructions;
