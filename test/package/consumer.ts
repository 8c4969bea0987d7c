// Type-checked, with the strictest settings, against the packed package.
import {
  AdamW,
  createDevice,
  type Device,
  defineOp,
  Generator,
  Linear,
  Module,
  mseLoss,
  ShapeError,
  scope,
  type Tensor,
  tensor,
} from "@tslm/tensor";

class Net extends Module {
  readonly layer = Linear.init(2, 1, new Generator(1));
  forward(x: Tensor): Tensor {
    return this.layer.forward(x).tanh();
  }
}

export const device: Promise<Device> = createDevice("auto", { threads: 1 });
export const net = new Net();
export const optimizer = new AdamW(net.parameters(), { lr: 0.1 });
export const loss: Tensor = scope(() => mseLoss(net.forward(tensor([[1, 2]])), tensor([[1]])));
export const shape: readonly number[] = loss.shape;
export const error: Error = new ShapeError("matmul", "inner sizes differ");
export { defineOp };

// @ts-expect-error: a device has a name that is known
createDevice("tpu");
// @ts-expect-error: tensors are not numbers
export const wrong: number = loss;
