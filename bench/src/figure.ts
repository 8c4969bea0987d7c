// Measures one figure in a process of its own, so that its peak of memory is its own. Called by bench.ts.
import { openDevice, peakMemory } from "@tslm/cli";
import { z } from "zod";
import { FIGURE_NAMES, FIGURES, type Measured } from "./figures.ts";

const order = z
  .object({
    figure: z.enum(FIGURE_NAMES as [(typeof FIGURE_NAMES)[number], ...typeof FIGURE_NAMES]),
    dir: z.string(),
    device: z.enum(["auto", "cpu", "gpu", "reference"]),
    threads: z.int().optional(),
  })
  .parse(JSON.parse(process.argv[2]));

const device = await openDevice(order);
const measured: Measured = await FIGURES[order.figure]({ dir: order.dir, device, threads: order.threads });
// A figure may have taken another tier than the device's, or another device.
const { device: name = device.info.name, isa = device.info.isa, threads = device.info.threads, ...figures } = measured;
console.log(JSON.stringify({ figure: order.figure, ...figures, ...peakMemory(), device: name, isa, threads }));
await device.dispose();
