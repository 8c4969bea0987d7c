import { describe, expect, test } from "bun:test";
import { allowedProcessors, cgroupCores, defaultThreads, distinctCores } from "./cores.ts";
import { type CpuidRegisters, readX64Info } from "./cpu-info.ts";
import { chooseIsa, IsaError } from "./isa.ts";
import { missing } from "./requirements.ts";

const word = (text: string) => new DataView(new TextEncoder().encode(text).buffer).getUint32(0, true);
const bits = (...indices: number[]) => indices.reduce((sum, index) => sum + 2 ** index, 0);

/** A Sapphire Rapids, as far as the kernels care. */
const sapphire: Record<string, CpuidRegisters> = {
  "0:0": [0x20, word("Genu"), word("ntel"), word("ineI")],
  "1:0": [0, 0, bits(12, 27, 28, 29), 0],
  "7:0": [1, bits(3, 5, 8, 16, 17, 28, 30, 31), bits(11), bits(22, 23, 24, 25)],
  "7:1": [bits(4, 5), 0, 0, 0],
  // 48 KiB L1 data (12 ways, 64 sets), L1 instructions, 2 MiB L2, 105 MiB L3
  "4:0": [1 | (1 << 5), (11 << 22) | 63, 63, 0],
  "4:1": [2 | (1 << 5), (7 << 22) | 63, 63, 0],
  "4:2": [3 | (2 << 5), (15 << 22) | 63, 2047, 0],
  "4:3": [3 | (3 << 5), (14 << 22) | 63, 114687, 0],
};
const machine = (changes: Record<string, CpuidRegisters> = {}, xcr0 = 0x602e7) =>
  readX64Info(
    (leaf, subleaf) => ({ ...sapphire, ...changes })[`${leaf}:${subleaf}`] ?? [0, 0, 0, 0],
    () => xcr0,
  );

describe("CPUID", () => {
  test("features, caches and vendor", () => {
    const cpu = machine();
    expect(cpu.brand).toBe("GenuineIntel");
    const { dotProduct, ...features } = cpu.features;
    expect(Object.values(features).every(Boolean)).toBe(true);
    expect(dotProduct).toBe(false);
    expect(cpu.caches).toEqual({ l1: 48 << 10, l2: 2 << 20, l3: 105 << 20 });
  });

  test("a feature counts only with the register state that the system saves", () => {
    expect(machine({}, 0x7).features).toMatchObject({ avx2: true, avx512: false, amxTile: false });
    expect(machine({}, 0xe7).features).toMatchObject({ avx2: true, avx512: true, amxTile: false, amxBf16: false });
    expect(machine({}, 0x1).features).toMatchObject({ avx2: false, fma: false, f16c: false });
    expect(machine({ "1:0": [0, 0, bits(12, 28, 29), 0] }).features.avx2).toBe(false); // no OSXSAVE
  });

  test("AVX-512 needs all of F, DQ, CD, BW, VL", () => {
    const cpu = machine({ "7:0": [1, bits(3, 5, 8, 16, 17, 28, 30), bits(11), 0] });
    expect(cpu.features).toMatchObject({ avx2: true, avx512: false, avx512Vnni: false });
  });
});

describe("choice of tier", () => {
  const all = ["avx2", "avx512", "amx", "wasm"] as const;
  test("the best with an emitter", () => {
    expect(chooseIsa(machine(), all)).toBe("amx");
    expect(chooseIsa(machine({}, 0xe7), all)).toBe("avx512");
    expect(chooseIsa(machine(), ["avx2", "wasm"])).toBe("avx2");
    expect(chooseIsa(undefined, all)).toBe("wasm");
    expect(chooseIsa(machine(), all, "")).toBe("amx");
  });
  test("forced, and refused with a reason", () => {
    expect(chooseIsa(machine(), all, "wasm")).toBe("wasm");
    expect(chooseIsa(machine(), all, "avx2")).toBe("avx2");
    expect(() => chooseIsa(machine({}, 7), all, "avx512")).toThrow(/no avx512\. .*use one of: avx2, wasm/);
    expect(() => chooseIsa(machine(), all, "sse9")).toThrow(IsaError);
    expect(() => chooseIsa(machine(), ["avx2", "wasm"], "amx")).toThrow("no kernels yet");
    expect(() => chooseIsa(undefined, all, "avx2")).toThrow("cannot run machine code");
    expect(missing("neon", machine())).toContain("x64");
  });
});

describe("threads", () => {
  const files = (texts: Record<string, string>) => (path: string) => texts[path];
  const siblings = (cpu: number) => `/sys/devices/system/cpu/cpu${cpu}/topology/thread_siblings_list`;

  test("hyper-threads of one core count once", () => {
    const read = files({
      "/proc/self/status": "Name:\tbun\nCpus_allowed_list:\t0-3,8\nMems:\t0",
      ...{ [siblings(0)]: "0,4\n", [siblings(1)]: "1,5\n", [siblings(2)]: "2-3\n", [siblings(3)]: "2-3\n" },
    });
    expect(allowedProcessors(read)).toEqual([0, 1, 2, 3, 8]);
    expect(distinctCores([0, 1, 2, 3, 8], read)).toBe(4);
    expect(defaultThreads(read)).toBe(4);
  });

  test("container quotas: v2 on any level, v1, none", () => {
    const v2 = {
      "/proc/self/cgroup": "0::/a/b\n",
      "/sys/fs/cgroup/a/cpu.max": "250000 100000\n",
      "/sys/fs/cgroup/a/b/cpu.max": "max 100000\n",
    };
    expect(cgroupCores(files(v2))).toBe(2);
    expect(cgroupCores(files({ "/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "50000 100000\n" }))).toBe(1);
    const v1 = {
      "/proc/self/cgroup": "3:cpu,cpuacct:/docker/x\n2:memory:/y\n",
      "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "300000\n",
      "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
    };
    expect(cgroupCores(files(v1))).toBe(3);
    expect(cgroupCores(files({ ...v1, "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n" }))).toBeUndefined();
    expect(cgroupCores(files({}))).toBeUndefined();
  });

  test("this machine: at least one, no more than it has", () => {
    expect(defaultThreads()).toBeGreaterThanOrEqual(1);
    expect(defaultThreads()).toBeLessThanOrEqual(navigator.hardwareConcurrency);
  });
});
