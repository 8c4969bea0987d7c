import { isBlocks } from "../dtype.ts";
import { DeviceError, DTypeError, IndexError, ShapeError } from "../errors.ts";
import { FILL } from "../expr/program.ts";
import { show, sizeOf } from "../shape.ts";
import type { Tensor } from "../tensor.ts";
import { apply, defineOp } from "./op.ts";

/** Says of which operation's index it is, and outside of what, when a device finds one that is in no row. */
export function explainIndex<T>(op: string, what: (row: string) => string, where: () => string, body: () => T): T {
  try {
    return body();
  } catch (cause) {
    const device = cause instanceof DeviceError && (cause.op === "gatherRows" || cause.op === "scatterRows");
    if (!device && !(cause instanceof IndexError)) throw cause;
    const row = /index (-?\d+)/.exec(cause.message)?.[1] ?? "?";
    throw new IndexError(op, `${what(row)} is outside of ${where()}`, { cause });
  }
}

export const embeddingOps = {
  /** Rows of a table picked by index; the gradient adds up where a row was picked more than once. */
  embedding: defineOp<undefined>({
    name: "embedding",
    blocks: [0],
    infer([table, index]) {
      if (table.rank < 1) throw new ShapeError("embedding", "the table needs at least one dimension");
      if (index.dtype !== "i32")
        throw new DTypeError("embedding", `indices must be i32, not ${index.dtype}; use to('i32')`);
      const dtype = table.dtype === "bf16" || isBlocks(table.dtype) ? "f32" : table.dtype;
      return { shape: [...index.shape, ...table.shape.slice(1)], dtype };
    },
    forward(context, [table, index]) {
      const out = context.output();
      const features = sizeOf(table.shape.slice(1));
      const rows = table.reshape(table.shape[0], features);
      const flat = index.reshape(index.size).contiguous();
      explainIndex(
        "embedding",
        (row) => `index ${row}`,
        () => `the rows of a table of ${show(table.shape)}`,
        () => context.device.gatherRows(rows, flat, out.reshape(index.size, features)),
      );
      context.save(flat);
      return out;
    },
    backward(context, grad) {
      const [table] = context.inputs;
      const [index] = context.saved;
      const out = context.empty(table.shape, table.dtype);
      context.device.elementwise(FILL, [0], [], out);
      const features = sizeOf(table.shape.slice(1));
      const rows = out.reshape(table.shape[0], features);
      context.device.scatterRows(grad.reshape(index.size, features), index, rows, "add");
      return [out, undefined];
    },
  }),
} as const;

/**
 * PyTorch's `functional.embedding`, and `index_select` along the first dimension. Shapes: table [size, ...features],
 * index i32 [...], result [...index, ...features]. A table of bf16 or of quantised blocks gives f32. Indices are trusted to be inside the table
 * by devices other than the host's; check them where they come in.
 */
export function embedding(table: Tensor, index: Tensor): Tensor {
  if (table.shape[0] === 0 && index.size > 0)
    throw new ShapeError("embedding", `no rows in a table of ${show(table.shape)}`);
  return apply(embeddingOps.embedding, [table, index], undefined);
}
