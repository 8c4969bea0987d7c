import { describe } from "bun:test";
import { native } from "#native";
import { runDeviceTests } from "../conformance.ts";
import { CpuDevice } from "./device.ts";
import { emitters } from "./kernel-library.ts";
import { Runtime } from "./runtime/index.ts";
import { isas } from "./runtime/isa.ts";
import { missing } from "./runtime/requirements.ts";
import { GuardedMemory } from "./testing.ts";

const { cpu } = new Runtime({ emitters, threads: 1 });
const here = isas.filter((isa) => emitters.includes(isa) && missing(isa, cpu) === undefined);
/** On tiles a factor keeps 16 bits of mantissa. */
const boundsOf = (isa: string) => (isa === "amx" ? { product: 4e-5 } : {});

describe.each(here)("%s", (isa) => {
  runDeviceTests((threads) => new CpuDevice({ isa, threads }), { bounds: boundsOf(isa) });
});

// A kernel that reads or writes beside its operands ends the process here. What takes long does so on small operands too.
const skip = ["elementwise", "reduce", "matmul"].map((family) => ({
  test: `${family}: enough for every thread`,
  reason: "its edges are those of the smaller ones",
}));
const guarded = here
  .filter((isa) => isa !== "wasm")
  .flatMap((isa) => [[isa, "end", false] as const, [isa, "begin", true] as const]);
describe.skipIf(native === undefined).each(guarded)("%s, every block's %s at a guard page", (isa, _, early) => {
  const make = (threads?: number) => new CpuDevice({ isa, threads, memory: (host) => new GuardedMemory(host, early) });
  runDeviceTests(make, { skip, bounds: boundsOf(isa) });
});
