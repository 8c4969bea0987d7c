import { ShapeError, TensorError } from "../errors.ts";
import { show, sizeOf } from "../shape.ts";
import type { Tensor } from "../tensor.ts";
import { diagonal } from "./diagonal.ts";
import { mul } from "./elementwise.ts";
import { matmul } from "./matmul.ts";
import { sum } from "./reduce.ts";
import { permute, reshape } from "./shape.ts";

/** A tensor whose dimensions have names. */
interface Named {
  readonly t: Tensor;
  readonly names: readonly string[];
}

/** Names of the dimensions that an ellipsis stands for, counted from the last. */
const hidden = (count: number): string[] => Array.from({ length: count }, (_, i) => `.${count - 1 - i}`);

function fail(equation: string, tensors: readonly Tensor[], message: string): never {
  throw new TensorError("einsum", `"${equation}" ${message}: ${tensors.map((t) => show(t.shape)).join(", ")}`);
}

/** The names in one operand's part of the equation; an ellipsis stands for `rank` less the others. */
function namesOf(part: string, rank: number): readonly string[] | undefined {
  const pieces = part.split("...");
  if (pieces.length > 2 || !pieces.every((piece) => /^[A-Za-z]*$/.test(piece))) return undefined;
  const letters = pieces.map((piece) => [...piece]);
  const rest = rank - letters.flat().length;
  if (pieces.length === 1) return rest === 0 ? letters[0] : undefined;
  return rest >= 0 ? [...letters[0], ...hidden(rest), ...letters[1]] : undefined;
}

/** Names as they stand in the result when it is not said: those that occur once, in order of the alphabet, after the ellipsis. */
function implied(inputs: readonly (readonly string[])[]): readonly string[] {
  const all = inputs.flat();
  const letters = [...new Set(all.filter((name) => name.length === 1))].sort();
  return [...ellipsisOf(all), ...letters.filter((name) => all.filter((other) => other === name).length === 1)];
}

const ellipsisOf = (names: readonly string[]): string[] =>
  hidden(new Set(names.filter((name) => name.length > 1)).size);

/** A name that stands twice in an operand: its diagonal. */
function withoutRepeats({ t, names }: Named): Named {
  const second = names.findIndex((name, d) => names.indexOf(name) < d);
  if (second < 0) return { t, names };
  const first = names.indexOf(names[second]);
  if (t.shape[first] !== t.shape[second])
    throw new ShapeError("einsum", `"${names[second]}" has two sizes in one tensor of ${show(t.shape)}`);
  const rest = names.filter((_, d) => d !== first && d !== second);
  return withoutRepeats({ t: diagonal(t, 0, first, second), names: [...rest, names[second]] });
}

/** Without the dimensions of size 1 that stand for any number of others'. */
function withoutOnes({ t, names }: Named, sizes: ReadonlyMap<string, number>): Named {
  const kept = names.filter((name, d) => t.shape[d] === sizes.get(name));
  return kept.length === names.length ? { t, names } : { t: arranged({ t, names }, kept), names: kept };
}

/** Sums over the names that nothing else has. */
function reduced({ t, names }: Named, wanted: ReadonlySet<string>): Named {
  const dims = names.flatMap((name, d) => (wanted.has(name) ? [] : [d]));
  return dims.length === 0 ? { t, names } : { t: sum(t, dims), names: names.filter((name) => wanted.has(name)) };
}

/** Dimensions in the order of `names`, with 1 where there is none; those left out have size 1. */
function arranged(a: Named, names: readonly string[]): Tensor {
  const present = names.filter((name) => a.names.includes(name));
  const dropped = a.names.filter((name) => !names.includes(name));
  const t = permute(
    a.t,
    [...present, ...dropped].map((name) => a.names.indexOf(name)),
  );
  let next = 0;
  return reshape(
    t,
    names.map((name) => (present.includes(name) ? t.shape[next++] : 1)),
  );
}

/** One product of two: over the names that both have and nobody else wants, by `matmul`. */
function pair(left: Named, right: Named, wanted: ReadonlySet<string>): Named {
  const others = (side: Named): Set<string> => new Set([...wanted, ...side.names]);
  const [a, b] = [reduced(left, others(right)), reduced(right, others(left))];
  const both = a.names.filter((name) => b.names.includes(name));
  const inner = both.filter((name) => !wanted.has(name));
  const batch = both.filter((name) => wanted.has(name));
  const rows = a.names.filter((name) => !both.includes(name));
  const columns = b.names.filter((name) => !both.includes(name));
  const names = [...batch, ...rows, ...columns];
  if (inner.length === 0) return { t: mul(arranged(a, names), arranged(b, names)), names };
  if (a.t.dtype === "i32" || b.t.dtype === "i32") {
    const spread = [...names, ...inner];
    return reduced({ t: mul(arranged(a, spread), arranged(b, spread)), names: spread }, new Set(names));
  }
  const size = (of: Named, list: readonly string[]): number =>
    sizeOf(list.map((name) => of.t.shape[of.names.indexOf(name)]));
  const batchShape = batch.map((name) => a.t.shape[a.names.indexOf(name)]);
  const lhs = reshape(arranged(a, [...batch, ...rows, ...inner]), [...batchShape, size(a, rows), size(a, inner)]);
  const rhs = reshape(arranged(b, [...batch, ...inner, ...columns]), [...batchShape, size(b, inner), size(b, columns)]);
  const shape = names.map((name) => (a.names.includes(name) ? size(a, [name]) : size(b, [name])));
  return { t: reshape(matmul(lhs, rhs), shape), names };
}

/**
 * Sums of products written with indices: PyTorch's `einsum`. `einsum("bij,bjk->bik", a, b)` is a batched matrix product,
 * `"ii"` a trace, `"i,j->ij"` an outer product, `"...ij->...ji"` a transpose. Several operands are joined from the left;
 * what two of them sum over goes through `matmul`. Where one has size 1 it is repeated.
 * @throws TensorError where the equation is none, or does not fit the shapes
 */
export function einsum(equation: string, ...tensors: readonly Tensor[]): Tensor {
  const [left, right, ...more] = equation.replaceAll(" ", "").split("->");
  const parts = left.split(",");
  if (more.length > 0 || tensors.length === 0 || parts.length !== tensors.length)
    fail(equation, tensors, `needs one part for each of ${tensors.length} tensors, and at most one "->"`);
  const inputs = parts.map(
    (part, i) => namesOf(part, tensors[i].rank) ?? fail(equation, tensors, `part "${part}" does not fit its tensor`),
  );
  const all = inputs.flat();
  const ellipsis = ellipsisOf(all);
  const output =
    right === undefined
      ? implied(inputs)
      : (namesOf(right, [...right.replace("...", "")].length + (right.includes("...") ? ellipsis.length : 0)) ??
        fail(equation, tensors, `has no result "${right}"`));
  for (const [i, name] of output.entries()) {
    if (!all.includes(name) || output.indexOf(name) !== i)
      fail(equation, tensors, `has "${name}" in its result, which must stand there once and in a part`);
  }

  const sizes = new Map<string, number>();
  for (const [i, names] of inputs.entries()) {
    for (const [d, name] of names.entries()) {
      const [n, before] = [tensors[i].shape[d], sizes.get(name) ?? 1];
      if (n !== 1 && before !== 1 && n !== before)
        fail(equation, tensors, `gives "${name}" the sizes ${before} and ${n}`);
      sizes.set(name, before === 1 ? n : before);
    }
  }
  const wanted = new Set(output);
  const operands = tensors.map((t, i) => withoutOnes(withoutRepeats({ t, names: inputs[i] }), sizes));
  let joined = operands[0];
  for (let i = 1; i < operands.length; i++) {
    const later = operands.slice(i + 1).flatMap(({ names }) => names);
    joined = pair(joined, operands[i], new Set([...wanted, ...later]));
  }
  return arranged(reduced(joined, wanted), output);
}
