// What the processor can do, asked of the processor: CPUID by a few bytes of machine code. /proc/cpuinfo is not used,
// because under an emulator it still describes the host.
import type { CodeMemory } from "./code-memory.ts";
import type { NativeHost } from "./host.ts";

/** Instruction sets that decide between kernels. NEON itself is part of arm64. */
export interface CpuFeatures {
  readonly avx2: boolean;
  readonly fma: boolean;
  readonly f16c: boolean;
  readonly bmi1: boolean;
  readonly bmi2: boolean;
  /** AVX-512 F, BW, CD, DQ and VL together: the set that every processor with 512-bit kernels has. */
  readonly avx512: boolean;
  readonly avx512Bf16: boolean;
  readonly avx512Vnni: boolean;
  readonly avx512Fp16: boolean;
  readonly avxVnni: boolean;
  readonly amxTile: boolean;
  readonly amxBf16: boolean;
  readonly amxInt8: boolean;
  /** FEAT_DotProd of arm64. */
  readonly dotProduct: boolean;
}

/** Sizes in bytes of the data caches that one core sees; 0 where unknown. */
export interface CacheSizes {
  readonly l1: number;
  readonly l2: number;
  readonly l3: number;
}

export interface CpuInfo {
  readonly arch: string;
  /** For people: the processor's own name, or the architecture. */
  readonly brand: string;
  readonly features: CpuFeatures;
  /** Register state that the system saves (XCR0), 0 where not applicable: features count only with their state. */
  readonly xcr0: number;
  readonly caches: CacheSizes;
}

/** EAX, EBX, ECX, EDX. */
export type CpuidRegisters = readonly [number, number, number, number];
export type Cpuid = (leaf: number, subleaf: number) => CpuidRegisters;

const noFeatures: CpuFeatures = {
  avx2: false,
  fma: false,
  f16c: false,
  bmi1: false,
  bmi2: false,
  avx512: false,
  avx512Bf16: false,
  avx512Vnni: false,
  avx512Fp16: false,
  avxVnni: false,
  amxTile: false,
  amxBf16: false,
  amxInt8: false,
  dotProduct: false,
};

const XCR0_AVX = 0x6; // XMM and upper YMM halves
const XCR0_AVX512 = 0xe6; // and mask registers, upper ZMM halves, ZMM16-31
const XCR0_AMX = 0x60006; // and tile configuration and data

/**
 * Reads x86-64 features, caches and name from CPUID (Intel SDM vol. 2A, CPUID; AMD APM vol. 3, appendix E).
 * `readXcr0` is called only when the processor says that XGETBV may be used.
 */
export function readX64Info(cpuid: Cpuid, readXcr0: () => number): CpuInfo {
  const [maxLeaf, b, c, d] = cpuid(0, 0);
  const vendor = ascii([b, d, c]);
  const [, , c1] = cpuid(1, 0);
  const [, b7, c7, d7] = maxLeaf >= 7 ? cpuid(7, 0) : [0, 0, 0, 0];
  const [a71] = maxLeaf >= 7 ? cpuid(7, 1) : [0, 0, 0, 0];
  const bit = (word: number, index: number) => ((word >>> index) & 1) === 1;

  const osxsave = bit(c1, 27);
  const xcr0 = osxsave ? readXcr0() : 0;
  const has = (mask: number) => (xcr0 & mask) === mask;
  const avx = bit(c1, 28) && has(XCR0_AVX);
  const avx512 = avx && has(XCR0_AVX512) && [16, 17, 28, 30, 31].every((index) => bit(b7, index));
  const amx = has(XCR0_AMX) && bit(d7, 24);

  return {
    arch: "x64",
    brand: brandString(cpuid) || vendor,
    xcr0,
    caches: cacheSizes(cpuid, vendor, maxLeaf),
    features: {
      avx2: avx && bit(b7, 5),
      fma: avx && bit(c1, 12),
      f16c: avx && bit(c1, 29),
      bmi1: bit(b7, 3),
      bmi2: bit(b7, 8),
      avx512,
      avx512Bf16: avx512 && bit(a71, 5),
      avx512Vnni: avx512 && bit(c7, 11),
      avx512Fp16: avx512 && bit(d7, 23),
      avxVnni: avx && bit(a71, 4),
      amxTile: amx,
      amxBf16: amx && bit(d7, 22),
      amxInt8: amx && bit(d7, 25),
      dotProduct: false,
    },
  };
}

function ascii(words: readonly number[]): string {
  let text = "";
  for (const word of words)
    for (let shift = 0; shift < 32; shift += 8) text += String.fromCharCode((word >>> shift) & 255);
  return text.split("\0")[0]!.trim();
}

function brandString(cpuid: Cpuid): string {
  if (cpuid(0x80000000, 0)[0] >>> 0 < 0x80000004) return "";
  return ascii([...cpuid(0x80000002, 0), ...cpuid(0x80000003, 0), ...cpuid(0x80000004, 0)]);
}

/** Deterministic cache parameters: leaf 4 on Intel, 0x8000001D on AMD, the same fields. */
function cacheSizes(cpuid: Cpuid, vendor: string, maxLeaf: number): CacheSizes {
  const amd = vendor === "AuthenticAMD" || vendor === "HygonGenuine";
  const leaf = amd ? 0x8000001d : 4;
  const sizes = [0, 0, 0, 0];
  const known = amd ? cpuid(0x80000000, 0)[0] >>> 0 >= leaf : maxLeaf >= 4;
  for (let index = 0; known && index < 8; index++) {
    const [a, b, c] = cpuid(leaf, index);
    const type = a & 31; // 0 none, 1 data, 2 instruction, 3 unified
    const level = (a >>> 5) & 7;
    if (type === 0) break;
    if (type === 2 || level > 3) continue;
    sizes[level] = ((b >>> 22) + 1) * (((b >>> 12) & 1023) + 1) * ((b & 4095) + 1) * ((c >>> 0) + 1);
  }
  return { l1: sizes[1]!, l2: sizes[2]!, l3: sizes[3]! };
}

// (edi leaf, esi subleaf, rdx out): push rbx; mov r8,rdx; mov eax,edi; mov ecx,esi; cpuid;
// mov [r8],eax; mov [r8+4],ebx; mov [r8+8],ecx; mov [r8+12],edx; pop rbx; ret
const CPUID_CODE = new Uint8Array([
  0x53, 0x49, 0x89, 0xd0, 0x89, 0xf8, 0x89, 0xf1, 0x0f, 0xa2, 0x41, 0x89, 0x00, 0x41, 0x89, 0x58, 0x04, 0x41, 0x89,
  0x48, 0x08, 0x41, 0x89, 0x50, 0x0c, 0x5b, 0xc3,
]);
// (edi register, esi unused, rdx out): mov r8,rdx; mov ecx,edi; xgetbv; mov [r8],eax; mov [r8+4],edx; ret
const XGETBV_CODE = new Uint8Array([
  0x49, 0x89, 0xd0, 0x89, 0xf9, 0x0f, 0x01, 0xd0, 0x41, 0x89, 0x00, 0x41, 0x89, 0x50, 0x04, 0xc3,
]);

/** Describes this processor. Throws CodeMemoryError when machine code may not run here. */
export function detectCpu(host: NativeHost, code: CodeMemory): CpuInfo {
  if (host.arch !== "x64") {
    const features = { ...noFeatures, dotProduct: host.dotProduct };
    return { arch: host.arch, brand: host.arch, xcr0: 0, caches: { l1: 0, l2: 0, l3: 0 }, features };
  }
  const cpuidAddress = code.add("cpuid", CPUID_CODE);
  const xgetbvAddress = code.add("xgetbv", XGETBV_CODE);
  const out = new Uint32Array(4);
  const cpuid: Cpuid = (leaf, subleaf) => {
    host.call(cpuidAddress, leaf >>> 0, subleaf, out);
    return [out[0]!, out[1]!, out[2]!, out[3]!];
  };
  return readX64Info(cpuid, () => {
    host.call(xgetbvAddress, 0, 0, out);
    return out[0]!;
  });
}
