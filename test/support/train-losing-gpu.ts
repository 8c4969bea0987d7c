/** The command `train`, whose GPU is lost after so many submissions of work: $LOSE_GPU_AFTER. */
import { train } from "../../packages/cli/src/commands/train.ts";
import { run } from "../../packages/cli/src/run.ts";
import { GpuContext } from "../../packages/tensor/src/devices/gpu/context.ts";

let left = Number(process.env.LOSE_GPU_AFTER);
const { submit } = GpuContext.prototype;
GpuContext.prototype.submit = function (): void {
  submit.call(this);
  if (--left === 0) this.device.destroy();
};
await run(train);
