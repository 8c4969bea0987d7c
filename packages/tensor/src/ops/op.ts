import { type Collected, isGradEnabled, Node, noGrad } from "../autograd.ts";
import type { Device } from "../devices/device.ts";
import { commonDevice } from "../devices/registry.ts";
import { type DType, isBlocks } from "../dtype.ts";
import { DTypeError, TensorError } from "../errors.ts";
import { scope } from "../memory.ts";
import { isContiguous, type Shape, show } from "../shape.ts";
import { Tensor } from "../tensor.ts";

/** Shape and element type of a result. */
export interface ResultType {
  readonly shape: Shape;
  readonly dtype: DType;
}

const nothingCollected: Collected = () => undefined;

/** What an op's forward pass knows, and what it leaves for its backward pass. */
export class Context {
  readonly device: Device;
  readonly result: ResultType;
  /** Shapes and types of the inputs. */
  readonly inputs: readonly ResultType[];
  /** Which inputs want a gradient; all false where nothing is recorded. */
  readonly needs: readonly boolean[];
  /** Whether any does. */
  readonly recorded: boolean;
  /** Set by `save`, in that order. */
  readonly saved: Tensor[] = [];
  /** For the tape: what has been collected so far for each input's gradient, where it may be added to in place. */
  collected: Collected = nothingCollected;

  constructor(device: Device, inputs: readonly ResultType[], result: ResultType, needs: readonly boolean[]) {
    this.device = device;
    this.inputs = inputs;
    this.result = result;
    this.needs = needs;
    this.recorded = needs.includes(true);
  }

  /** Keeps tensors for the backward pass; does nothing where there will be none. */
  save(...tensors: Tensor[]): void {
    if (this.recorded) for (const t of tensors) this.saved.push(t.alias({ owned: true }));
  }

  /** The result's tensor, still to be written. */
  output(): Tensor {
    return Tensor.empty(this.result.shape, { dtype: this.result.dtype, device: this.device });
  }
  /**
   * Where the gradient to an input goes: new memory, or with `accumulate` what other operations gave already. For the
   * backward pass of ops that can add as they write.
   */
  gradientTo(input: number): { out: Tensor; accumulate: boolean } {
    const before = this.collected(input);
    const { shape, dtype } = this.inputs[input];
    return before ? { out: before, accumulate: true } : { out: this.empty(shape, dtype), accumulate: false };
  }
  /**
   * Memory for a gradient in the shape of a tensor that was saved and is not needed after it: the tensor's own where
   * nobody else holds it.
   */
  reuse(saved: Tensor): Tensor {
    const { storage, shape, strides, dtype } = saved;
    return !storage.shared && isContiguous(shape, strides) ? saved : this.empty(shape, dtype);
  }
  /** Memory for something else of the op's. */
  empty(shape: Shape, dtype: DType): Tensor {
    return Tensor.empty(shape, { dtype, device: this.device });
  }
}

/** One operation: everything about it in one object. */
export interface Op<Args> {
  readonly name: string;
  /** Which inputs, by number, may be quantised blocks: frozen weights where the operation reads rows of them. */
  readonly blocks?: readonly number[];
  /** Shape and type rule; throws ShapeError or DTypeError. */
  infer(inputs: readonly Tensor[], args: Args): ResultType;
  forward(context: Context, inputs: readonly Tensor[], args: Args): Tensor;
  /** The gradient to each input (undefined where none is needed) from the result's; "none" where none can flow. */
  readonly backward: "none" | ((context: Context, grad: Tensor, args: Args) => readonly (Tensor | undefined)[]);
}

/** Declares an op; the identity, for its types. */
export function defineOp<Args>(op: Op<Args>): Op<Args> {
  return op;
}

/** Runs an op and records it where a gradient is wanted. */
export function apply<Args>(op: Op<Args>, inputs: readonly Tensor[], args: Args): Tensor {
  // Every decoded token comes here hundreds of times, so nothing is made that is not needed.
  checkInputs(op, inputs);
  const device = commonDevice(op.name, inputs);
  const result = op.infer(inputs, args);
  const { backward } = op;
  if (backward === "none" || !isGradEnabled() || !inputs.some(wantsGradient)) {
    const context = new Context(device, inputs, result, nothingNeeded(inputs.length));
    return scope(() => noGrad(() => op.forward(context, inputs, args)));
  }
  const types = inputs.map(({ shape, dtype }) => ({ shape, dtype }));
  const context = new Context(device, types, result, inputs.map(wantsGradient));
  return record(op.name, inputs, context, {
    forward: () => op.forward(context, inputs, args),
    backward: (_, grad) => backward(context, grad, args),
  });
}

/** The two passes of an operation, its inputs and arguments known. */
interface Passes {
  forward(context: Context): Tensor;
  backward(context: Context, grad: Tensor): readonly (Tensor | undefined)[];
}

function record(name: string, inputs: readonly Tensor[], context: Context, passes: Passes): Tensor {
  try {
    const out = scope(() => noGrad(() => passes.forward(context)));
    const edges = inputs.map((t) => t.edge);
    out.node = new Node(name, edges, context.saved, (grad, collected) => {
      context.collected = collected;
      return passes.backward(context, grad);
    });
    return out;
  } catch (error) {
    for (const t of context.saved) t.dispose();
    throw error;
  }
}

/** As {@link apply}, for operations whose result's type is known only from the result. */
export function applyUntyped(name: string, inputs: readonly Tensor[], passes: Passes): Tensor {
  checkInputs({ name }, inputs);
  const types = inputs.map(({ shape, dtype }) => ({ shape, dtype }));
  const needs = isGradEnabled() ? inputs.map(wantsGradient) : nothingNeeded(inputs.length);
  const context = new Context(commonDevice(name, inputs), types, UNKNOWN, needs);
  if (context.recorded) return record(name, inputs, context, passes);
  return scope(() => noGrad(() => passes.forward(context)));
}

const UNKNOWN: ResultType = { shape: [], dtype: "f32" };

const wantsGradient = (t: Tensor): boolean => t.edge !== undefined;

const NOTHING: (readonly boolean[])[] = [];
const nothingNeeded = (inputs: number): readonly boolean[] => (NOTHING[inputs] ??= new Array(inputs).fill(false));

function checkInputs({ name, blocks }: Pick<Op<never>, "name" | "blocks">, inputs: readonly Tensor[]): void {
  for (let i = 0; i < inputs.length; i++) {
    const t = inputs[i];
    if (isBlocks(t.dtype) && !blocks?.includes(i)) {
      throw new DTypeError(
        name,
        `takes no ${t.dtype} blocks; they serve as weights of linear, matmul's right side and embedding tables. Use to('f32')`,
      );
    }
    if (t.disposed) {
      throw new TensorError(
        name,
        `an input of shape ${show(t.shape)} was freed; keep() it, or return it from its scope`,
      );
    }
  }
}
