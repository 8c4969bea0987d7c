/** A kernel: a name, the fields of its argument block, and the function that builds its code for a target. */

import { Builder } from "./builder.ts";
import type { Element, KernelCode } from "./ir.ts";
import type { Target } from "./target.ts";
import { type F32, type Index, Pointer } from "./values.ts";

/** What a field of an argument block is: an integer, one f32, or the address of elements. */
export type ArgumentType = "index" | "f32" | `${Element}*`;
export type ArgumentTypes = Readonly<Record<string, ArgumentType>>;

/** The fields inside a kernel; each is loaded where it is mentioned, every time. */
export type Arguments<A extends ArgumentTypes> = {
  readonly [K in keyof A]: A[K] extends "index" ? Index : A[K] extends "f32" ? F32 : Pointer;
};

/** The fields outside: addresses and integers as numbers. */
export type ArgumentValues<A extends ArgumentTypes> = { readonly [K in keyof A]: number };

export interface Kernel<A extends ArgumentTypes = ArgumentTypes> {
  readonly name: string;
  readonly args: A;
  readonly build: (k: Builder, args: Arguments<A>) => void;
  /** The widest vectors it can be built for, in f32 lanes; any when absent. */
  readonly maximumLanes?: number;
}

/** Bytes of a field in the block, on every target; fields lie in the order in which they are declared. */
export const ARGUMENT_BYTES = 8;

export function defineKernel<const A extends ArgumentTypes>(
  name: string,
  args: A,
  build: (k: Builder, args: Arguments<A>) => void,
  options: { maximumLanes?: number } = {},
): Kernel<A> {
  return { name, args, build, ...options };
}

/** Runs a kernel's function for one target. */
export function buildKernel<A extends ArgumentTypes>(kernel: Kernel<A>, target: Target): KernelCode {
  const k = new Builder(kernel.name, target);
  const args = {};
  for (const [i, [name, type]] of Object.entries(kernel.args).entries()) {
    Object.defineProperty(args, name, {
      get: () => {
        const offset = i * ARGUMENT_BYTES;
        if (type === "f32") return k.argument(offset, "f32");
        const value = k.argument(offset, "index") as Index;
        return type === "index"
          ? value
          : new Pointer(k, type.slice(0, -1) as Element, { base: value.reg, scale: 1, disp: 0 });
      },
    });
  }
  kernel.build(k, args as Arguments<A>);
  return k.finish();
}

export function argumentBlockBytes(kernel: { readonly args: ArgumentTypes }): number {
  return Object.keys(kernel.args).length * ARGUMENT_BYTES;
}

/** Writes an argument block at byte `offset` of `view`. */
export function writeArguments<A extends ArgumentTypes>(
  kernel: Kernel<A>,
  view: DataView,
  offset: number,
  values: ArgumentValues<A>,
): void {
  let at = offset;
  for (const name in kernel.args) {
    const value = values[name];
    if (kernel.args[name] === "f32") view.setFloat32(at, value, true);
    else {
      // Two halves rather than a BigInt: nothing is allocated on the way to a kernel.
      view.setInt32(at, value | 0, true);
      view.setInt32(at + 4, Math.floor(value / 2 ** 32), true);
    }
    at += ARGUMENT_BYTES;
  }
}
