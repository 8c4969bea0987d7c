/** What every register machine needs of a kernel before its code can be written: needless moves gone, positions, live intervals. */

import {
  type Condition,
  conditionReads,
  type Instruction,
  type KernelCode,
  type Loop,
  type Node,
  type Operand,
  type Reg,
  reads,
} from "../lang/ir.ts";

/** The stretch of positions in which a register's value is needed. Position 2p is the reading, 2p + 1 the writing half of step p. */
export interface Interval {
  readonly reg: Reg;
  start: number;
  end: number;
  /** How often it is used, each level of loops counting tenfold. */
  weight: number;
  /** Registers it would be good to share a place with. */
  readonly hints: Reg[];
}

const INNERMOST_WEIGHT = 1e15;

export interface Liveness {
  readonly intervals: Interval[];
  /** Loops that hold no other loop, with the registers used in them. */
  readonly innermost: { readonly loop: Loop; readonly used: Set<Reg> }[];
}

/** Writes results into the variable they are moved to, where the move is their only use. Changes the nodes in place. */
export function removeMoves(code: KernelCode): void {
  const uses = new Map<Reg, number>();
  const definitions = new Map<Reg, number>();
  const count = (map: Map<Reg, number>, reg: Reg) => map.set(reg, (map.get(reg) ?? 0) + 1);
  visit(code.body, (node) => {
    if (node.kind === "op") {
      for (const reg of reads(node)) count(uses, reg);
      if (node.dst) count(definitions, node.dst);
    } else for (const reg of conditionReads(node.condition)) count(uses, reg);
  });
  const clean = (nodes: Node[]): void => {
    for (let i = 0; i < nodes.length; i++) {
      const node = nodes[i];
      if (node.kind === "loop") clean(node.body);
      else if (node.kind === "if") {
        clean(node.yes);
        clean(node.no);
      } else if (node.kind === "op" && node.op === "move" && i > 0) {
        const from = node.args[0] as Reg;
        const previous = nodes[i - 1];
        if (previous.kind !== "op" || previous.dst !== from) continue;
        if (uses.get(from) !== 1 || definitions.get(from) !== 1 || previous.dst.type !== node.dst!.type) continue;
        previous.dst = node.dst;
        nodes.splice(i, 1);
        i--;
      }
    }
  };
  clean(code.body);
}

function visit(nodes: readonly Node[], see: (node: Exclude<Node, { kind: "comment" }>) => void): void {
  for (const node of nodes) {
    if (node.kind === "comment") continue;
    see(node);
    if (node.kind === "loop") visit(node.body, see);
    else if (node.kind === "if") {
      visit(node.yes, see);
      visit(node.no, see);
    }
  }
}

/**
 * Gives innermost loops copies of the integers they only read, so that such a value may lie on the stack elsewhere without
 * costing a loop anything. Where the original is not needed afterwards the copy takes its place and the move is none.
 * @returns the number of registers after that
 */
export function localize(code: KernelCode): number {
  let next = code.registers.length;
  const walk = (nodes: Node[]): void => {
    for (let i = 0; i < nodes.length; i++) {
      const node = nodes[i];
      if (node.kind === "if") {
        walk(node.yes);
        walk(node.no);
      } else if (node.kind === "loop") {
        let inner = !node.maySpill;
        const read = new Set<Reg>(conditionReads(node.condition));
        const written = new Set<Reg>();
        visit(node.body, (each) => {
          if (each.kind === "loop") inner = false;
          if (each.kind === "op") {
            for (const reg of reads(each)) read.add(reg);
            if (each.dst) written.add(each.dst);
          } else for (const reg of conditionReads(each.condition)) read.add(reg);
        });
        if (!inner) {
          walk(node.body);
          continue;
        }
        const copies = new Map<Reg, Reg>();
        for (const reg of read) {
          if (reg.type === "index" && !written.has(reg)) copies.set(reg, { kind: "reg", id: next++, type: "index" });
        }
        substitute(node, copies);
        const moves: Node[] = [...copies].map(([from, dst]) => ({ kind: "op", op: "move", dst, args: [from] }));
        nodes.splice(i, 0, ...moves);
        i += moves.length;
      }
    }
  };
  walk(code.body);
  return next;
}

/** Replaces what a loop reads. */
function substitute(loop: Loop, copies: ReadonlyMap<Reg, Reg>): void {
  const copy = <T extends Operand | undefined>(operand: T): T =>
    operand?.kind === "reg" ? ((copies.get(operand) ?? operand) as T) : operand;
  const condition = ({ comparison, left, right }: Condition): Condition => ({
    comparison,
    left: copy(left),
    right: copy(right),
  });
  loop.condition = condition(loop.condition);
  visit(loop.body, (node) => {
    if (node.kind !== "op") {
      node.condition = condition(node.condition);
      return;
    }
    node.args = node.args.map(copy);
    node.count = copy(node.count);
    const { address } = node;
    if (address) node.address = { ...address, base: copy(address.base), index: copy(address.index) };
  });
}

/**
 * Live intervals, whole and without holes: a register that is defined before a loop and mentioned in it lives to the
 * loop's end. `extra` gives an instruction's temporaries and says whether its result must avoid its operands' places.
 */
export function liveness(
  code: KernelCode,
  extra: (instruction: Instruction) => { temporaries: readonly Reg[]; early: boolean },
): Liveness {
  const intervals = new Map<Reg, Interval>();
  const innermost: Liveness["innermost"] = [];
  let position = 0;
  let depth = 0;
  const open: { start: number; used: Set<Reg>; inner: boolean }[] = [];

  const touch = (reg: Reg, at: number, hint?: Reg): void => {
    let interval = intervals.get(reg);
    if (!interval) {
      interval = { reg, start: at, end: at, weight: 0, hints: [] };
      intervals.set(reg, interval);
    }
    interval.end = Math.max(interval.end, at);
    interval.weight += 10 ** depth;
    if (hint) interval.hints.push(hint);
    for (const loop of open) loop.used.add(reg);
  };

  const walk = (nodes: readonly Node[]): void => {
    for (const node of nodes) {
      if (node.kind === "comment") continue;
      position++;
      if (node.kind === "op") {
        const { temporaries, early } = extra(node);
        for (const reg of reads(node)) touch(reg, 2 * position);
        for (const reg of temporaries) {
          touch(reg, 2 * position);
          touch(reg, 2 * position + 1);
          intervals.get(reg)!.weight = Number.POSITIVE_INFINITY;
        }
        if (node.dst) {
          const share = node.op === "fma" || node.op === "fnma" ? node.args[2] : node.args[0];
          touch(node.dst, 2 * position + (early ? 0 : 1), share?.kind === "reg" ? share : undefined);
          touch(node.dst, 2 * position + 1);
        }
      } else if (node.kind === "if") {
        for (const reg of conditionReads(node.condition)) touch(reg, 2 * position);
        walk(node.yes);
        walk(node.no);
      } else {
        for (const loop of open) loop.inner = false;
        const entry = { start: 2 * position, used: new Set<Reg>(), inner: true };
        open.push(entry);
        depth++;
        walk(node.body);
        position++;
        for (const reg of conditionReads(node.condition)) touch(reg, 2 * position);
        depth--;
        open.pop();
        for (const reg of entry.used) {
          const interval = intervals.get(reg)!;
          if (interval.start < entry.start) interval.end = Math.max(interval.end, 2 * position + 1);
        }
        if (entry.inner) innermost.push({ loop: node, used: entry.used });
      }
    }
  };
  for (const reg of code.parameters) touch(reg, 0);
  walk(code.body);
  // However deep other loops lie, whoever works in an innermost one comes first.
  for (const { loop, used } of innermost) {
    if (!loop.maySpill) for (const reg of used) intervals.get(reg)!.weight += INNERMOST_WEIGHT;
  }
  return { intervals: [...intervals.values()].sort((a, b) => a.start - b.start || a.reg.id - b.reg.id), innermost };
}
