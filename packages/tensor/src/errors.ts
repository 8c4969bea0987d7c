/** Base of every error this package throws on purpose; `op` names the operation, as in `[matmul] inner sizes differ`. */
export class TensorError extends Error {
  override readonly name: string = "TensorError";
  readonly op: string;
  constructor(op: string, message: string, options?: ErrorOptions) {
    super(`[${op}] ${message}`, options);
    this.op = op;
  }
}

/** Sizes that do not fit together. */
export class ShapeError extends TensorError {
  override readonly name = "ShapeError";
}

/** An index outside of its dimension. */
export class IndexError extends TensorError {
  override readonly name = "IndexError";
}

/** An element type that the operation or the device does not take. */
export class DTypeError extends TensorError {
  override readonly name = "DTypeError";
}

/** A device that is missing, failed, or was given another device's tensor. */
export class DeviceError extends TensorError {
  override readonly name: string = "DeviceError";
}

/** A device that is gone, or out of memory, in the middle of work: its tensors are lost, another device may go on. */
export class DeviceLostError extends DeviceError {
  override readonly name = "DeviceLostError";
}

/** A tensor used after its memory was freed, or a gradient asked for where none flows. */
export class GradientError extends TensorError {
  override readonly name = "GradientError";
}

/** A file that is not what its format says. */
export class FormatError extends TensorError {
  override readonly name = "FormatError";
}
