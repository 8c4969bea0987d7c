/**
 * The command `train`, whose GPU is lost after so many submissions of work ($LOSE_GPU_AFTER), or has no more memory after so
 * many ($FILL_GPU_AFTER).
 */
import { train } from "../../packages/cli/src/commands/train.ts";
import { run } from "../../packages/cli/src/run.ts";
import { GpuContext } from "../../packages/tensor/src/devices/gpu/context.ts";
import { limitGpuMemory } from "./small-gpu.ts";

const { LOSE_GPU_AFTER, FILL_GPU_AFTER } = process.env;
let submissions = 0;
const { submit } = GpuContext.prototype;
GpuContext.prototype.submit = function (): void {
  submit.call(this);
  submissions++;
  if (submissions === Number(LOSE_GPU_AFTER)) this.device.destroy();
  if (submissions === Number(FILL_GPU_AFTER)) {
    // What is kept for reuse is gone, and nothing new to be had.
    this.pool.trim(0);
    limitGpuMemory(0);
  }
};
await run(train);
