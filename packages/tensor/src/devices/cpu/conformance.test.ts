import { describe } from "bun:test";
import { native } from "#native";
import { runDeviceTests } from "../conformance.ts";
import { CpuDevice } from "./device.ts";
import { emitters } from "./kernel-library.ts";
import { Runtime } from "./runtime/index.ts";
import { isas, missing } from "./runtime/isa.ts";
import { GuardedMemory } from "./testing.ts";

const { cpu, isa: best } = new Runtime({ emitters, threads: 1 });
/** On tiles a factor keeps 16 bits of mantissa. */
const boundsOf = (isa: string) => (isa === "amx" ? { product: 4e-5 } : {});

describe.each(isas.filter((isa) => emitters.includes(isa) && missing(isa, cpu) === undefined))("%s", (isa) => {
  runDeviceTests((threads) => new CpuDevice({ isa, threads }), { bounds: boundsOf(isa) });
});

// A kernel that reads or writes beside its operands ends the process here. What takes long does so on small operands too.
const skip = ["elementwise", "reduce", "matmul"].map((family) => ({
  test: `${family}: enough for every thread`,
  reason: "its edges are those of the smaller ones",
}));
describe.skipIf(native === undefined).each([
  ["end", false],
  ["begin", true],
] as const)("every block's %s at a guard page", (_, early) => {
  const make = (threads?: number) => new CpuDevice({ threads, memory: (host) => new GuardedMemory(host, early) });
  runDeviceTests(make, { skip, bounds: boundsOf(best) });
});
