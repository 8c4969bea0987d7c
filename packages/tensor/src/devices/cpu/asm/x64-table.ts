/**
 * The vector instructions the x86-64 emitter uses, as data: everything that distinguishes one VEX encoding from
 * another. Source: Intel SDM volume 2, "VEX.<length>.<pp>.<map>.<W> <opcode>".
 */

/**
 * Where the operands go, in the order they are written (destination first). `r` ModRM.reg, `v` VEX.vvvv, `m` ModRM.rm
 * (register or memory), `i` an immediate byte, `l` a register in the immediate's upper half.
 */
export type Form = "rvm" | "rm" | "mr" | "rvmi" | "rmi" | "mri" | "vmi" | "mvr" | "rvml" | "rmv";

/** What an operand is: `x` a vector of the instruction's length, `h` one of half of it, `o` xmm, `g` a 32-bit and `q` a 64-bit general register. */
export type OperandClass = "x" | "h" | "o" | "g" | "q";

export interface Encoding {
  readonly form: Form;
  /** Mandatory prefix: 0 none, 1 66, 2 F3, 3 F2. */
  readonly pp: 0 | 1 | 2 | 3;
  /** Opcode map: 1 0F, 2 0F38, 3 0F3A. */
  readonly map: 1 | 2 | 3;
  readonly opcode: number;
  readonly w: 0 | 1;
  /** Vector lengths in bits that exist; 0 stands for scalar instructions, whose length bit is ignored (written 0). */
  readonly lengths: readonly number[];
  /** Class of each register operand, in written order, immediates left out. */
  readonly classes: string;
  /** ModRM.reg where it extends the opcode (form `vmi`). */
  readonly digit?: number;
  /** `reg` or `mem` where the ModRM.rm operand may only be that. */
  readonly only?: "reg" | "mem";
  /** Bytes of memory written or read where that is not the vector length (for the listing). */
  readonly memory?: number;
}

type Options = Partial<Pick<Encoding, "w" | "lengths" | "classes" | "digit" | "only" | "memory">>;

const BOTH = [128, 256];
const DEFAULT_CLASSES: Record<Form, string> = {
  rvm: "xxx",
  rm: "xx",
  mr: "xx",
  rvmi: "xxx",
  rmi: "xx",
  mri: "xx",
  vmi: "xx",
  mvr: "xxx",
  rvml: "xxxx",
  rmv: "xxx",
};

function vex(form: Form, pp: 0 | 1 | 2 | 3, map: 1 | 2 | 3, opcode: number, options: Options = {}): Encoding {
  return { form, pp, map, opcode, w: 0, lengths: BOTH, classes: DEFAULT_CLASSES[form], ...options };
}

const scalar: Options = { lengths: [0], classes: "ooo" };

export const instructions = {
  // f32 vectors
  vaddps: vex("rvm", 0, 1, 0x58),
  vmulps: vex("rvm", 0, 1, 0x59),
  vsubps: vex("rvm", 0, 1, 0x5c),
  vdivps: vex("rvm", 0, 1, 0x5e),
  vminps: vex("rvm", 0, 1, 0x5d),
  vmaxps: vex("rvm", 0, 1, 0x5f),
  vandps: vex("rvm", 0, 1, 0x54),
  vandnps: vex("rvm", 0, 1, 0x55),
  vorps: vex("rvm", 0, 1, 0x56),
  vxorps: vex("rvm", 0, 1, 0x57),
  vunpcklps: vex("rvm", 0, 1, 0x14),
  vunpckhps: vex("rvm", 0, 1, 0x15),
  vunpcklpd: vex("rvm", 1, 1, 0x14),
  vunpckhpd: vex("rvm", 1, 1, 0x15),
  vsqrtps: vex("rm", 0, 1, 0x51),
  vcmpps: vex("rvmi", 0, 1, 0xc2),
  vshufps: vex("rvmi", 0, 1, 0xc6),
  vroundps: vex("rmi", 1, 3, 0x08),
  vblendvps: vex("rvml", 1, 3, 0x4a),
  vblendps: vex("rvmi", 1, 3, 0x0c),
  vmovshdup: vex("rm", 2, 1, 0x16),
  vmovhlps: vex("rvm", 0, 1, 0x12, { lengths: [128], only: "reg" }),
  vcvtdq2ps: vex("rm", 0, 1, 0x5b),
  vcvtps2dq: vex("rm", 1, 1, 0x5b),
  vcvttps2dq: vex("rm", 2, 1, 0x5b),
  vcvtph2ps: vex("rm", 1, 2, 0x13, { classes: "xh" }),
  vcvtps2ph: vex("mri", 1, 3, 0x1d, { classes: "hx" }),
  vinsertf128: vex("rvmi", 1, 3, 0x18, { lengths: [256], classes: "xxo", memory: 16 }),
  vextractf128: vex("mri", 1, 3, 0x19, { lengths: [256], classes: "ox", memory: 16 }),
  vfmadd132ps: vex("rvm", 1, 2, 0x98),
  vfmadd213ps: vex("rvm", 1, 2, 0xa8),
  vfmadd231ps: vex("rvm", 1, 2, 0xb8),
  vfnmadd132ps: vex("rvm", 1, 2, 0x9c),
  vfnmadd213ps: vex("rvm", 1, 2, 0xac),
  vfnmadd231ps: vex("rvm", 1, 2, 0xbc),
  // f32 scalars
  vaddss: vex("rvm", 2, 1, 0x58, scalar),
  vmulss: vex("rvm", 2, 1, 0x59, scalar),
  vsubss: vex("rvm", 2, 1, 0x5c, scalar),
  vdivss: vex("rvm", 2, 1, 0x5e, scalar),
  vminss: vex("rvm", 2, 1, 0x5d, scalar),
  vmaxss: vex("rvm", 2, 1, 0x5f, scalar),
  vsqrtss: vex("rvm", 2, 1, 0x51, scalar),
  vfmadd132ss: vex("rvm", 1, 2, 0x99, scalar),
  vfmadd213ss: vex("rvm", 1, 2, 0xa9, scalar),
  vfmadd231ss: vex("rvm", 1, 2, 0xb9, scalar),
  vfnmadd132ss: vex("rvm", 1, 2, 0x9d, scalar),
  vfnmadd213ss: vex("rvm", 1, 2, 0xad, scalar),
  vfnmadd231ss: vex("rvm", 1, 2, 0xbd, scalar),
  vcvtsi2ss: vex("rvm", 2, 1, 0x2a, { lengths: [0], classes: "oog", only: "reg" }),
  // integer vectors
  vpaddd: vex("rvm", 1, 1, 0xfe),
  vpsubd: vex("rvm", 1, 1, 0xfa),
  vpmulld: vex("rvm", 1, 2, 0x40),
  vpmuludq: vex("rvm", 1, 1, 0xf4),
  vpand: vex("rvm", 1, 1, 0xdb),
  vpor: vex("rvm", 1, 1, 0xeb),
  vpxor: vex("rvm", 1, 1, 0xef),
  vpminsd: vex("rvm", 1, 2, 0x39),
  vpmaxsd: vex("rvm", 1, 2, 0x3d),
  vpcmpeqd: vex("rvm", 1, 1, 0x76),
  vpcmpgtd: vex("rvm", 1, 1, 0x66),
  vpackusdw: vex("rvm", 1, 2, 0x2b),
  vpackssdw: vex("rvm", 1, 1, 0x6b),
  vpacksswb: vex("rvm", 1, 1, 0x63),
  vpshufb: vex("rvm", 1, 2, 0x00),
  vpcmpeqb: vex("rvm", 1, 1, 0x74),
  vpabsb: vex("rm", 1, 2, 0x1c),
  vpsignb: vex("rvm", 1, 2, 0x08),
  vpmaddubsw: vex("rvm", 1, 2, 0x04),
  vpmaddwd: vex("rvm", 1, 1, 0xf5),
  vpsrlvd: vex("rvm", 1, 2, 0x45),
  vpermd: vex("rvm", 1, 2, 0x36, { lengths: [256] }),
  vpslld: vex("vmi", 1, 1, 0x72, { digit: 6, only: "reg" }),
  vpsrld: vex("vmi", 1, 1, 0x72, { digit: 2, only: "reg" }),
  vpsrad: vex("vmi", 1, 1, 0x72, { digit: 4, only: "reg" }),
  vpsrlq: vex("vmi", 1, 1, 0x73, { digit: 2, only: "reg" }),
  vpshufd: vex("rmi", 1, 1, 0x70),
  vpblendd: vex("rvmi", 1, 3, 0x02),
  vpmovzxwd: vex("rm", 1, 2, 0x33, { classes: "xh" }),
  vpmovsxwd: vex("rm", 1, 2, 0x23, { classes: "xh" }),
  vpmovzxbd: vex("rm", 1, 2, 0x31, { classes: "xo" }),
  vpmovsxbd: vex("rm", 1, 2, 0x21, { classes: "xo" }),
  vpinsrb: vex("rvmi", 1, 3, 0x20, { lengths: [128], classes: "oog", memory: 1 }),
  vpinsrw: vex("rvmi", 1, 1, 0xc4, { lengths: [128], classes: "oog", memory: 2 }),
  vpextrb: vex("mri", 1, 3, 0x14, { lengths: [128], classes: "go", only: "mem", memory: 1 }),
  vpextrw: vex("mri", 1, 3, 0x15, { lengths: [128], classes: "go", only: "mem", memory: 2 }),
  vpermq: vex("rmi", 1, 3, 0x00, { lengths: [256], w: 1 }),
  // moves
  vmovaps: vex("rm", 0, 1, 0x28),
  vmovups: vex("rm", 0, 1, 0x10),
  vmovups_store: vex("mr", 0, 1, 0x11, { only: "mem" }),
  vmovntps: vex("mr", 0, 1, 0x2b, { only: "mem" }),
  vmovss: vex("rm", 2, 1, 0x10, { lengths: [0], classes: "oo", only: "mem" }),
  vmovss_store: vex("mr", 2, 1, 0x11, { lengths: [0], classes: "oo", only: "mem" }),
  vmovq: vex("rm", 2, 1, 0x7e, { lengths: [128], classes: "oo", only: "mem" }),
  vmovq_store: vex("mr", 1, 1, 0xd6, { lengths: [128], classes: "oo", only: "mem" }),
  vmovd: vex("rm", 1, 1, 0x6e, { lengths: [128], classes: "og" }),
  vmovd_store: vex("mr", 1, 1, 0x7e, { lengths: [128], classes: "go" }),
  vmovmskps: vex("rm", 0, 1, 0x50, { classes: "gx", only: "reg" }),
  vbroadcastss: vex("rm", 1, 2, 0x18, { classes: "xo" }),
  vbroadcastf128: vex("rm", 1, 2, 0x1a, { lengths: [256], only: "mem", memory: 16 }),
  vpbroadcastd: vex("rm", 1, 2, 0x58, { classes: "xo" }),
  vpbroadcastw: vex("rm", 1, 2, 0x79, { classes: "xo" }),
  vmaskmovps: vex("rvm", 1, 2, 0x2c, { only: "mem" }),
  vmaskmovps_store: vex("mvr", 1, 2, 0x2e, { only: "mem" }),
  // general registers (BMI2)
  bzhi: vex("rmv", 0, 2, 0xf5, { lengths: [0], classes: "qqq", w: 1 }),
  mulx: vex("rvm", 3, 2, 0xf6, { lengths: [0], classes: "qqq", w: 1 }),
} satisfies Record<string, Encoding>;

export type VexName = keyof typeof instructions;
