import { GradientError } from "./errors.ts";
import { FILL, IDENTITY } from "./expr/program.ts";
import { scope } from "./memory.ts";
import { isContiguous, sameShape, show } from "./shape.ts";
import { Tensor } from "./tensor.ts";

let recording = true;

/** Are operations being recorded for a gradient? */
export function isGradEnabled(): boolean {
  return recording;
}

/** Runs `body` without recording, as PyTorch's `no_grad`: results need no gradient and nothing is kept. Synchronous. */
export function noGrad<T>(body: () => T): T {
  return withGrad(false, body);
}

/** Runs `body` with recording on, also inside {@link noGrad}: PyTorch's `enable_grad`. Synchronous. */
export function enableGrad<T>(body: () => T): T {
  return withGrad(true, body);
}

function withGrad<T>(on: boolean, body: () => T): T {
  const before = recording;
  if (before === on) return body();
  recording = on;
  try {
    return body();
  } finally {
    recording = before;
  }
}

/** Where a gradient goes: the operation that made an input, or a leaf that collects it in `grad`. */
export type Edge = Node | Tensor;

/** Frees what abandoned tape entries hold: a forward pass that was never followed by a backward pass. */
const abandoned = new FinalizationRegistry<Tensor[]>((saved) => {
  for (const t of saved) t.dispose();
});

/** A gradient to an input that other operations gave already, when it may be added to in place. */
export type Collected = (input: number) => Tensor | undefined;

type Backward = (grad: Tensor, collected: Collected) => readonly (Tensor | undefined)[];

let nextId = 0;

/** One recorded operation. */
export class Node {
  /** Grows with every operation, so descending ids are an order in which gradients can flow. */
  readonly id = nextId++;
  readonly op: string;
  readonly edges: readonly (Edge | undefined)[];
  #saved: Tensor[] | undefined;
  #backward: Backward;

  constructor(op: string, edges: readonly (Edge | undefined)[], saved: Tensor[], backward: Backward) {
    this.op = op;
    this.edges = edges;
    this.#saved = saved;
    this.#backward = backward;
    if (saved.length > 0) abandoned.register(this, saved, this);
  }

  /** The gradient to each input; one that was `collected` comes back where it was added to in place. */
  backward(grad: Tensor, collected: Collected): readonly (Tensor | undefined)[] {
    if (!this.#saved) {
      throw new GradientError(this.op, "backward ran through this graph before and freed it; compute the loss anew");
    }
    return this.#backward(grad, collected);
  }

  /** Gives back what was saved for the gradient. */
  release(): void {
    abandoned.unregister(this);
    for (const t of this.#saved ?? []) t.dispose();
    this.#saved = undefined;
  }
}

/**
 * Sends the gradient of `root` back to every leaf that requires one, adding to its `grad`, and frees the tape as it
 * goes. `gradient` is 1 for a scalar unless given.
 * @throws GradientError when nothing requires a gradient, or root is not a scalar and no gradient is given
 */
export function backward(root: Tensor, gradient?: Tensor): void {
  const start = root.edge;
  if (!start) throw new GradientError("backward", "nothing here requires a gradient; set requiresGrad on a parameter");
  if (!gradient && root.size !== 1) {
    throw new GradientError(
      "backward",
      `a tensor of shape ${show(root.shape)} needs a gradient to start from; reduce it to a scalar`,
    );
  }
  if (gradient && (!sameShape(gradient.shape, root.shape) || gradient.dtype !== root.dtype)) {
    throw new GradientError(
      "backward",
      `a gradient of shape ${show(gradient.shape)} ${gradient.dtype} does not fit a tensor of ${show(root.shape)} ${root.dtype}`,
    );
  }
  const pending = new Map<Edge, Tensor>();
  try {
    noGrad(() => {
      scope(() => receive(pending, start, gradient ?? onesLike(root)));
      for (const node of reachable(start)) {
        const grad = pending.get(node);
        if (grad) {
          const collected: Collected = (i) => {
            const edge = node.edges[i];
            const before = edge && collectedAt(pending, edge);
            return before && isOwn(before) ? before : undefined;
          };
          scope(() => {
            node.backward(grad, collected).forEach((g, i) => {
              const edge = node.edges[i];
              if (g && edge) receive(pending, edge, g);
            });
          });
          pending.delete(node);
          grad.dispose();
        }
        node.release();
      }
    });
  } finally {
    for (const grad of pending.values()) grad.dispose();
  }
}

function onesLike(t: Tensor): Tensor {
  const out = Tensor.empty(t.shape, { dtype: t.dtype, device: t.device });
  t.device.elementwise(FILL, [1], [], out);
  return out;
}

function collectedAt(pending: ReadonlyMap<Edge, Tensor>, edge: Edge): Tensor | undefined {
  return edge instanceof Tensor ? edge.grad : pending.get(edge);
}

/** May it be written in place? */
function isOwn(grad: Tensor): boolean {
  return !grad.storage.shared && isContiguous(grad.shape, grad.strides);
}

/** Adds a gradient to what has arrived for an operation or a leaf. */
function receive(pending: Map<Edge, Tensor>, edge: Edge, grad: Tensor): void {
  const before = collectedAt(pending, edge);
  if (before === grad) return;
  let total: Tensor;
  if (!before) {
    // A leaf's gradient is written in place later, so it must be its own and in order.
    total = !(edge instanceof Tensor) || isOwn(grad) ? grad.alias() : grad.clone().alias();
  } else if (isOwn(before)) {
    before.device.elementwise(IDENTITY, [], [grad], before, true);
    return;
  } else {
    total = before.add(grad).alias();
    before.dispose();
  }
  if (edge instanceof Tensor) edge.grad = total;
  else pending.set(edge, total);
}

/** All operations behind `start`, latest first. */
function reachable(start: Edge): Node[] {
  const found = new Set<Node>();
  const open: Edge[] = [start];
  for (let edge = open.pop(); edge; edge = open.pop()) {
    if (edge instanceof Tensor || found.has(edge)) continue;
    found.add(edge);
    for (const next of edge.edges) if (next) open.push(next);
  }
  return [...found].sort((a, b) => b.id - a.id);
}

/**
 * Runs `body(inputs)` keeping nothing but its inputs, and runs it again when the gradient is needed: less memory for
 * one more forward pass (Chen et al., 2016; PyTorch's `checkpoint`). `body` must do the same both times: random numbers
 * come from explicit keys, so dropout does.
 */
export function checkpoint(body: (...inputs: Tensor[]) => Tensor, ...inputs: Tensor[]): Tensor {
  if (!recording) return body(...inputs);
  const saved = inputs.map((t) => t.alias());
  const out = scope(() => noGrad(() => body(...inputs)).alias({ tracked: true }));
  out.node = new Node(
    "checkpoint",
    inputs.map((t) => t.edge),
    saved,
    (grad) => {
      const again = saved.map((t, i) => {
        const leaf = t.alias({ tracked: true });
        leaf.requiresGrad = inputs[i].edge !== undefined;
        return leaf;
      });
      enableGrad(() => {
        // Only what the gradient needs is left then, and may be overwritten.
        const value = scope(() => body(...again));
        if (value.edge) backward(value, grad);
      });
      return again.map((leaf) => leaf.grad?.adopt());
    },
  );
  return out;
}
