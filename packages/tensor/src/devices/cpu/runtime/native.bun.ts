// The operating system under Bun, through bun:ffi and libc. The only file of the package that imports "bun:ffi";
// package.json's "imports" keep it out of every bundle that is not for Bun.
import { CFunction, dlopen, type Pointer, ptr, toArrayBuffer } from "bun:ffi";
import type { KernelFunction, NativeHost } from "./host.ts";

export { probe } from "./probe.ts";

const PROT_NONE = 0;
const PROT_READ_WRITE = 3;
const PROT_READ_EXEC = 5;
const MAP_PRIVATE = 2;
const MADV_DONTNEED = 4;
const MADV_HUGEPAGE = 14;
const HUGE_PAGE_BYTES = 2 << 20;
const MAP_FAILED = 0xffff_ffff_ffff_ffffn;
const SYS_ARCH_PRCTL = 158;
const ARCH_REQ_XCOMP_PERM = 0x1023;
const XFEATURE_XTILEDATA = 18;

const KERNEL_SIGNATURE = { args: ["ptr", "i32", "i32"], returns: "void" } as const;

const libcNames: Record<string, string[]> = {
  linux: ["libc.so.6", `libc.musl-${process.arch === "arm64" ? "aarch64" : "x86_64"}.so.1`],
  darwin: ["libSystem.B.dylib"],
};

function openLibc() {
  for (const name of libcNames[process.platform] ?? []) {
    try {
      return dlopen(name, {
        mmap: { args: ["u64", "u64", "i32", "i32", "i32", "i64"], returns: "u64" },
        munmap: { args: ["u64", "u64"], returns: "i32" },
        mprotect: { args: ["u64", "u64", "i32"], returns: "i32" },
        madvise: { args: ["u64", "u64", "i32"], returns: "i32" },
        getpagesize: { args: [], returns: "i32" },
      }).symbols;
    } catch {
      // The next name; none of them fitting means the WebAssembly tier.
    }
  }
  return undefined;
}

/** On arm64 the instruction cache does not see what was written until it is told; on x86-64 it does. */
function openFlush(): ((begin: number, end: number) => void) | undefined {
  if (process.arch !== "arm64") return () => {};
  try {
    if (process.platform === "darwin") {
      const { symbols } = dlopen("libSystem.B.dylib", {
        sys_icache_invalidate: { args: ["u64", "u64"], returns: "void" },
      });
      return (begin, end) => symbols.sys_icache_invalidate(begin, end - begin);
    }
    const { symbols } = dlopen("libgcc_s.so.1", { __clear_cache: { args: ["u64", "u64"], returns: "void" } });
    return (begin, end) => symbols.__clear_cache(begin, end);
  } catch {
    return undefined;
  }
}

const AT_HWCAP = 16;
const HWCAP_ASIMDDP = 1 << 20;

/** Whether an arm64 processor has FEAT_DotProd: Linux says so in the auxiliary vector, macOS by sysctl. */
function hasDotProduct(): boolean {
  if (process.arch !== "arm64") return false;
  for (const name of libcNames[process.platform] ?? []) {
    try {
      if (process.platform === "darwin") {
        const { symbols } = dlopen(name, {
          sysctlbyname: { args: ["buffer", "buffer", "buffer", "ptr", "u64"], returns: "i32" },
        });
        const [value, bytes] = [new Int32Array(1), BigUint64Array.of(4n)];
        const key = new TextEncoder().encode("hw.optional.arm.FEAT_DotProd\0");
        return symbols.sysctlbyname(key, value, bytes, null, 0) === 0 && value[0] === 1;
      }
      const { symbols } = dlopen(name, { getauxval: { args: ["u64"], returns: "u64" } });
      return (Number(symbols.getauxval(AT_HWCAP)) & HWCAP_ASIMDDP) !== 0;
    } catch {
      // The next name.
    }
  }
  return false;
}

/** Linux keeps the tiles' large register state from processes that did not ask for it. */
function askForTiles(): boolean {
  for (const name of libcNames[process.platform] ?? []) {
    try {
      const { symbols } = dlopen(name, { syscall: { args: ["i64", "i64", "i64"], returns: "i64" } });
      return Number(symbols.syscall(SYS_ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)) === 0;
    } catch {
      // The next name.
    }
  }
  return false;
}

/** The answer, which holds for the whole process. */
let tilesGiven: boolean | undefined;

function createHost(): NativeHost | undefined {
  const libc = openLibc();
  if (libc === undefined) return undefined;
  const flush = openFlush();
  const linux = process.platform === "linux";
  const anonymous = MAP_PRIVATE | (linux ? 0x20 | 0x4000 /* MAP_NORESERVE */ : 0x1000);
  const pageBytes = libc.getpagesize();
  const callables = new Map<number, ReturnType<typeof CFunction>>();
  // The addresses of reservations differ from what `map` returned when it aligned to huge pages.
  const reservations = new Map<number, { address: bigint; bytes: bigint }>();

  const pages = (bytes: number) => Math.ceil(bytes / pageBytes) * pageBytes;

  return {
    platform: process.platform,
    arch: process.arch,
    pageBytes,
    dotProduct: hasDotProduct(),

    map(bytes) {
      const size = pages(bytes);
      const huge = size >= HUGE_PAGE_BYTES;
      const alignment = huge ? HUGE_PAGE_BYTES : pageBytes;
      const reserved = size + pageBytes + alignment;
      const base = libc.mmap(0, reserved, PROT_NONE, anonymous, -1, 0);
      if (base === MAP_FAILED) return 0;
      const address = Math.ceil((Number(base) + pageBytes) / alignment) * alignment;
      if (libc.mprotect(address, size, PROT_READ_WRITE) !== 0) {
        libc.munmap(base, reserved);
        return 0;
      }
      if (huge && linux) libc.madvise(address, size, MADV_HUGEPAGE); // advice only: a refusal costs speed alone
      reservations.set(address, { address: base, bytes: BigInt(reserved) });
      return address;
    },

    // Also on Apple silicon, where MAP_JIT with pthread_jit_write_protect_np cannot be used from here: the switch takes the
    // right to execute from all such memory of the thread, JavaScript's own compiled code included. Plain pages may become
    // executable there because Bun is signed with allow-unsigned-executable-memory; a refusal means WebAssembly.
    makeExecutable(address, bytes) {
      if (!flush || libc.mprotect(address, pages(bytes), PROT_READ_EXEC) !== 0) return false;
      flush(address, address + bytes);
      return true;
    },

    unmap(address, bytes) {
      const reservation = reservations.get(address);
      if (reservation === undefined)
        throw new Error(`[native memory] unmap: nothing of ${bytes} bytes is mapped there`);
      reservations.delete(address);
      libc.munmap(reservation.address, reservation.bytes);
    },

    discard(address, bytes) {
      const first = Math.ceil(address / pageBytes) * pageBytes;
      const last = Math.floor((address + bytes) / pageBytes) * pageBytes;
      if (linux && last > first) libc.madvise(first, last - first, MADV_DONTNEED);
    },

    view: (address, bytes) => toArrayBuffer(address as Pointer, 0, bytes),

    addressOf: (array) => ptr(array as NodeJS.TypedArray),

    kernelAt(address): KernelFunction {
      let callable = callables.get(address);
      if (callable === undefined) {
        callable = CFunction({ ptr: address as Pointer, ...KERNEL_SIGNATURE });
        callables.set(address, callable);
      }
      return callable as unknown as KernelFunction;
    },

    call(address, a, b, out) {
      const callable = CFunction({ ptr: address as Pointer, args: ["u32", "u32", "ptr"], returns: "void" });
      callable(a, b, out);
      callable.close();
    },

    requestTiles() {
      if (!linux || process.arch !== "x64") return false;
      tilesGiven ??= askForTiles();
      return tilesGiven;
    },

    workerPrelude: `import { CFunction } from "bun:ffi";
globalThis.tensorNative = { kernelAt: (ptr) => CFunction({ ptr, args: ["ptr", "i32", "i32"], returns: "void" }) };
`,
  };
}

export const native: NativeHost | undefined = createHost();
