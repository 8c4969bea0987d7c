/**
 * Runs machine code on an emulated processor, for the vector units this computer lacks: Bochs (the Debian package of that
 * name) boots straight into 64-bit mode from a ROM made here, reads memory from a disk, calls the functions, and writes
 * the memory back to the disk.
 */
import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { assemble, haveAs } from "../asm/testing.ts";

/** `TSLM_BOCHS` names one that is not on the PATH. */
const program = Bun.which(process.env.TSLM_BOCHS || "bochs-bin") ?? Bun.which("bochs");

/** Whether this computer can emulate. */
export const haveBochs = program !== null && haveAs;

/** Where the disk's content lies in the emulated memory; addresses given to `emulate` count from here. */
export const EMULATED_BASE = 0x400000;
/** Bytes of memory from there on. */
export const EMULATED_BYTES = 48 << 20;

export interface EmulatedCall {
  readonly function: number;
  readonly args: number;
  readonly begin: number;
  readonly end: number;
}

const LOW = 0x10000;
const PAGE_DIRECTORY = LOW;
const DESCRIPTORS = LOW + 0x4000;
const STUB = LOW + 0x5000;
const CALLS = LOW + 0x6000;
/** The register states to switch on, as XCR0 numbers them. */
const FEATURES = CALLS - 8;
const CYLINDER = 16 * 63 * 512;

/** At the processor's reset vector: into 64-bit mode, with AVX-512 state switched on in the stub. */
const ROM = `.code16
start: cli
  in al, 0x92
  or al, 2
  out 0x92, al
  mov eax, cr4
  or eax, 0x40620
  mov cr4, eax
  mov eax, ${PAGE_DIRECTORY}
  mov cr3, eax
  mov ecx, 0xc0000080
  rdmsr
  or eax, 0x100
  wrmsr
  mov ax, ${LOW >> 4}
  mov ds, ax
  lgdt [${DESCRIPTORS - LOW}]
  mov eax, cr0
  and eax, 0x9ffffffb
  or eax, 0x80000003
  mov cr0, eax
  .byte 0x66, 0xea
  .long ${STUB}
  .word 8
.org 0xfff0
  .byte 0xea
  .word 0, 0xf000
.org 0xffff
  .byte 0`;

/**
 * Reads the disk's first sectors (their number is at CALLS) into memory, makes the calls that follow, writes the sectors
 * back, and ends the emulation by a fault that nothing handles.
 */
const STUB_SOURCE = `.code64
  xor eax, eax
  mov ds, ax
  mov es, ax
  mov ss, ax
  mov rsp, 0x1f0000
  xor ecx, ecx
  xor edx, edx
  mov eax, [${FEATURES}]
  xsetbv
  mov r8, [${CALLS}]
  mov r9d, 0x20
  mov rdi, ${EMULATED_BASE}
  call disk
  mov rbx, ${CALLS + 8}
next: mov rax, [rbx]
  test rax, rax
  jz done
  mov rdi, [rbx + 8]
  mov rsi, [rbx + 16]
  mov rdx, [rbx + 24]
  push rbx
  call rax
  pop rbx
  add rbx, 32
  jmp next
done: mov r8, [${CALLS}]
  mov rax, r8
  dec rax
  shl rax, 9
  mov byte ptr [rax + ${EMULATED_BASE}], 1
  mov r9d, 0x30
  mov rsi, ${EMULATED_BASE}
  call disk
  lidt [rip + nothing]
  ud2
nothing: .quad 0, 0

disk: xor ebx, ebx
sector: cmp rbx, r8
  jae finished
  mov edx, 0x1f7
busy: in al, dx
  test al, 0x80
  jnz busy
  mov edx, 0x1f2
  mov al, 1
  out dx, al
  mov eax, ebx
  inc edx
  out dx, al
  shr eax, 8
  inc edx
  out dx, al
  shr eax, 8
  inc edx
  out dx, al
  shr eax, 8
  or al, 0xe0
  inc edx
  out dx, al
  inc edx
  mov eax, r9d
  out dx, al
ready: in al, dx
  test al, 0x80
  jnz ready
  test al, 8
  jz ready
  mov edx, 0x1f0
  mov ecx, 256
  cmp r9d, 0x20
  jne write
  rep insw
  inc rbx
  jmp sector
write: rep outsw
  inc rbx
  jmp sector
finished: mov edx, 0x1f7
  in al, dx
  test al, 0x80
  jnz finished
  ret`;

let parts: { rom: Uint8Array; stub: Uint8Array } | undefined;

/** Processors to emulate: with AVX-512, and with AMX besides (Bochs 3). */
const MODELS = {
  avx512: { name: "corei7_skylake_x", features: 0xe7 },
  amx: { name: "sapphire_rapids", features: 0x600e7 },
} as const;

/** Whether the emulator knows a processor with AMX. */
export const haveTiles = haveBochs && Bun.spawnSync([program!, "--help", "cpu"]).stderr.includes(MODELS.amx.name);

/** Memory before the calls to memory after them, both from `EMULATED_BASE` on. Throws when the code faults. */
export function emulate(
  memory: Uint8Array,
  calls: readonly EmulatedCall[],
  processor: keyof typeof MODELS,
): Uint8Array {
  parts ??= { rom: assemble([ROM]), stub: assemble([STUB_SOURCE]) };
  const low = new Uint8Array(0x10000);
  const view = new DataView(low.buffer);
  view.setUint32(0, (PAGE_DIRECTORY + 0x1000) | 3, true);
  view.setUint32(0x1000, (PAGE_DIRECTORY + 0x2000) | 3, true);
  // 1 GiB of 2 MiB pages, each at its own address.
  for (let i = 0; i < 512; i++) view.setUint32(0x2000 + i * 8, (i * 0x200000) | 0x83, true);
  view.setUint16(DESCRIPTORS - LOW, 0x17, true);
  view.setUint32(DESCRIPTORS - LOW + 2, DESCRIPTORS + 0x10, true);
  view.setUint32(DESCRIPTORS - LOW + 0x1c, 0x00209a00, true);
  low.set(parts.stub, STUB - LOW);
  view.setUint32(FEATURES - LOW, MODELS[processor].features, true);
  // One sector more, in which the end of the calls is marked.
  const sectors = Math.ceil(memory.length / 512) + 1;
  const words = [sectors];
  for (const call of calls) words.push(EMULATED_BASE + call.function, EMULATED_BASE + call.args, call.begin, call.end);
  words.forEach((word, i) => {
    view.setBigInt64(CALLS - LOW + 8 * i, BigInt(word), true);
  });

  const folder = mkdtempSync(join(tmpdir(), "bochs-"));
  const at = (name: string) => join(folder, name);
  try {
    writeFileSync(at("rom"), parts.rom);
    // Never run, but the emulated computer is not complete without.
    writeFileSync(at("vga"), new Uint8Array(0x8000));
    writeFileSync(at("low"), low);
    writeFileSync(at("disk"), memory);
    const cylinders = Math.ceil((sectors * 512) / CYLINDER);
    truncateSync(at("disk"), cylinders * CYLINDER);
    const lines = [
      'display_library: rfb, options="timeout=0"',
      `cpu: model=${MODELS[processor].name}, count=1, ips=400000000, reset_on_triple_fault=0`,
      "memory: guest=64, host=64",
      `vgaromimage: file=${at("vga")}`,
      `romimage: file=${at("rom")}, address=0xffff0000`,
      `optramimage1: file=${at("low")}, address=0x${LOW.toString(16)}`,
      `ata0-master: type=disk, path=${at("disk")}, mode=flat, cylinders=${cylinders}, heads=16, spt=63`,
      `log: ${at("log")}`,
      "panic: action=fatal",
    ];
    writeFileSync(at("bochsrc"), `${lines.join("\n")}\n`);
    // A Bochs with a debugger waits to be told to continue; others do not read this.
    const run = Bun.spawnSync([program!, "-q", "-f", at("bochsrc")], { stdin: new TextEncoder().encode("c\nq\n") });
    const after = new Uint8Array(readFileSync(at("disk"))).slice(0, memory.length);
    if (readFileSync(at("disk"))[(sectors - 1) * 512] !== 1) {
      const log = readFileSync(at("log"), "latin1").split("\n").slice(-60).join("\n");
      throw new Error(`the emulated code did not come to its end:\n${run.stdout.toString().slice(-500)}\n${log}`);
    }
    return after;
  } finally {
    rmSync(folder, { recursive: true });
  }
}
