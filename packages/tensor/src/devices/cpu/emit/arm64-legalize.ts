/**
 * Rewrites a kernel into what NEON's instructions can say: constants lie in registers, a multiply-add overwrites its
 * addend, a minimum is a comparison and a selection.
 */

import type { Immediate, Instruction, KernelCode, Node, Operand, Reg, Type } from "../lang/ir.ts";

/**
 * Changes the nodes in place.
 * @param hoist put the constants of an innermost loop before it, where they stay in registers
 * @param dotProduct products of bytes are added to what their result holds, which thus begins as 0
 */
export function legalize(code: KernelCode, hoist: boolean, dotProduct: boolean): void {
  const registers = code.registers as Reg[];
  const fresh = (type: Type): Reg => {
    const reg: Reg = { kind: "reg", id: registers.length, type };
    registers.push(reg);
    return reg;
  };

  /** @param kept constants that the loop around has before it; undefined outside of innermost loops */
  const walk = (nodes: Node[], kept: Map<string, { reg: Reg; value: Immediate }> | undefined): void => {
    for (let i = 0; i < nodes.length; i++) {
      const node = nodes[i];
      if (node.kind === "loop") {
        if (!hoist || hasLoop(node.body)) {
          walk(node.body, undefined);
          continue;
        }
        const constants: typeof kept = new Map();
        walk(node.body, constants);
        const before: Node[] = [...constants.values()].map(({ reg, value }) => constant(reg, value));
        nodes.splice(i, 0, ...before);
        i += before.length;
      } else if (node.kind === "if") {
        walk(node.yes, kept);
        walk(node.no, kept);
      } else if (node.kind === "op") {
        const before: Node[] = [];
        const inRegister = (value: Immediate): Reg => {
          const key = `${value.type} ${Object.is(value.value, -0) ? "-0" : value.value} ${value.bytes ?? ""}`;
          const known = kept?.get(key);
          if (known) return known.reg;
          const reg = fresh(value.type);
          if (kept) kept.set(key, { reg, value });
          else before.push(constant(reg, value));
          return reg;
        };
        const after = fit(node, dotProduct, fresh, inRegister, before);
        if (before.length + after.length === 0) continue;
        nodes.splice(i, 1, ...before, node, ...after);
        i += before.length + after.length;
      }
    }
  };
  walk(code.body, undefined);
}

/** Fits one instruction; fills what must precede it, and returns what must follow. */
function fit(
  node: Instruction,
  dotProduct: boolean,
  fresh: (type: Type) => Reg,
  inRegister: (value: Immediate) => Reg,
  before: Node[],
): Node[] {
  const { op, dst } = node;
  if (op === "const") return [];
  const fused = (op === "fma" || op === "fnma") && dst!.type === "vf";
  node.args = node.args.map((arg, i): Operand => {
    if (arg.kind === "reg" || arg.type === "index" || (fused && i === 2)) return arg;
    return inRegister(arg);
  });
  if (fused || (op === "dot" && dotProduct)) {
    const [a, b, c = ZERO] = node.args;
    if (c === dst) return [];
    const sum = dst === a || dst === b ? fresh(dst!.type) : dst!;
    before.push(c.kind === "reg" ? move(sum, c) : constant(sum, c));
    node.args = [a, b, sum];
    node.dst = sum;
    return sum === dst ? [] : [move(dst!, sum)];
  }
  if ((op === "min" || op === "max") && dst!.type === "vf") {
    const [a, b] = node.args;
    const mask = fresh("vb");
    const comparison = op === "min" ? "lt" : "gt";
    before.push({ kind: "op", op: "compare", dst: mask, args: [a, b], comparison, imm: 0 });
    node.op = "select";
    node.args = [mask, a, b];
  }
  return [];
}

const ZERO: Immediate = { kind: "immediate", type: "vi", value: 0 };
const constant = (dst: Reg, value: Immediate): Instruction => ({ kind: "op", op: "const", dst, args: [value] });
const move = (dst: Reg, from: Reg): Instruction => ({ kind: "op", op: "move", dst, args: [from] });

function hasLoop(nodes: readonly Node[]): boolean {
  return nodes.some((node) => node.kind === "loop" || (node.kind === "if" && (hasLoop(node.yes) || hasLoop(node.no))));
}

/**
 * The values that need only the lowest lane: one number in all lanes that is nothing but a factor, whose products can
 * name the lane instead.
 */
export function factors(code: KernelCode): ReadonlySet<Reg> {
  const found = new Set<Reg>();
  const refused = new Set<Reg>();
  const refuse = (operand: Operand | undefined): void => {
    if (operand?.kind === "reg") refused.add(operand);
  };
  const walk = (nodes: readonly Node[]): void => {
    for (const node of nodes) {
      if (node.kind === "loop") walk(node.body);
      else if (node.kind === "if") {
        walk(node.yes);
        walk(node.no);
      } else if (node.kind === "op") {
        const { op, dst, args } = node;
        const one = op === "broadcast" || (op === "splat" && args[0].type === "f32");
        if (dst?.type === "vf") {
          if (one && !found.has(dst)) found.add(dst);
          else refuse(dst);
        }
        const product = (op === "fma" || op === "fnma" || op === "mul") && dst?.type === "vf";
        args.forEach((arg, i) => {
          // Both factors by lane is no form, and neither is a factor that is the sum as well.
          if (!product || i > 1 || args[1 - i] === arg || args[2] === arg) refuse(arg);
          else if (i === 1 && found.has(args[0] as Reg) && !refused.has(args[0] as Reg)) refuse(arg);
        });
      }
    }
  };
  walk(code.body);
  for (const reg of refused) found.delete(reg);
  return found;
}
