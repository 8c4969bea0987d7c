// Executable memory that is never writable and executable at once: pages are mapped read-write, filled, then turned
// read-execute for good. Every block has inaccessible guard pages around it. The system unmaps it at exit.
import type { NativeHost } from "./host.ts";

/** The system refuses executable memory, or machine code given to it is unusable. */
export class CodeMemoryError extends Error {
  override readonly name = "CodeMemoryError";
}

/** What lies in the code memory, for `TENSOR_DEBUG` and tests. */
export interface CodeBlock {
  readonly name: string;
  readonly address: number;
  readonly bytes: number;
}

export class CodeMemory {
  readonly blocks: CodeBlock[] = [];
  private readonly host: NativeHost;

  constructor(host: NativeHost) {
    this.host = host;
  }

  /**
   * Copies position-independent machine code into fresh executable pages.
   * @returns the address of its first byte, 4,096-aligned
   * @throws CodeMemoryError when the system refuses (a hardened kernel, no memory)
   */
  add(name: string, code: Uint8Array): number {
    if (code.length === 0) throw new CodeMemoryError(`[code memory] kernel ${name} has no code`);
    const address = this.host.map(code.length);
    if (address === 0)
      throw new CodeMemoryError(`[code memory] the system gave no ${code.length} bytes for kernel ${name}`);
    new Uint8Array(this.host.view(address, code.length)).set(code);
    if (!this.host.makeExecutable(address, code.length)) {
      this.host.unmap(address, code.length);
      throw new CodeMemoryError(
        `[code memory] this system does not let a program make memory executable (kernel ${name}); use TENSOR_ISA=wasm`,
      );
    }
    this.blocks.push({ name, address, bytes: code.length });
    return address;
  }

  /** Unmaps all code. Only when no thread can be inside it: after the pool's threads have ended. */
  dispose(): void {
    for (const { address, bytes } of this.blocks.splice(0)) this.host.unmap(address, bytes);
  }
}
