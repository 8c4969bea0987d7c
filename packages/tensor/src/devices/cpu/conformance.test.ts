import { describe } from "bun:test";
import { runDeviceTests } from "../conformance.ts";
import { CpuDevice } from "./device.ts";
import { emitters } from "./kernel-library.ts";
import { Runtime } from "./runtime/index.ts";
import { isas, missing } from "./runtime/isa.ts";

const { cpu } = new Runtime({ emitters, threads: 1 });

describe.each(isas.filter((isa) => emitters.includes(isa) && missing(isa, cpu) === undefined))("%s", (isa) => {
  runDeviceTests((threads) => new CpuDevice({ isa, threads }));
});
