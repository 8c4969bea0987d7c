/** Register allocation by linear scan over whole live intervals. */

import type { Reg } from "../lang/ir.ts";
import type { Interval, Liveness } from "./prepare.ts";

/** A kind of machine register: which a value may take, in order of preference, and which to set aside once something must be spilled. */
export interface RegisterFile {
  readonly registers: readonly number[];
  /** How many of `registers`, from the end, serve spilled values instead. */
  readonly scratch: number;
}

export interface Allocation {
  /** The machine register of each virtual one that has one. */
  readonly places: ReadonlyMap<Reg, number>;
  /** The stack slot, by number, of each that has none. */
  readonly slots: ReadonlyMap<Reg, number>;
}

/** Raised at build time when an innermost loop needs more registers than the target has. */
export class RegisterPressureError extends Error {
  override readonly name = "RegisterPressureError";
}

/**
 * Gives every interval of one register file a place. Whoever is used least, loops considered, goes to the stack when
 * places run out; inside an innermost loop that is refused, unless the loop allows it.
 */
export function allocate(
  kernel: string,
  { intervals, innermost }: Liveness,
  file: RegisterFile,
  belongs: (reg: Reg) => boolean,
  fixed: ReadonlyMap<Reg, number> = new Map(),
): Allocation {
  const own = intervals.filter(({ reg }) => belongs(reg));
  let allocation = scan(own, file.registers, fixed);
  if (allocation.slots.size > 0) {
    allocation = scan(own, file.registers.slice(0, file.registers.length - file.scratch), fixed);
    for (const { loop, used } of innermost) {
      if (loop.maySpill) continue;
      const spilled = [...used].filter((reg) => allocation.slots.has(reg));
      if (spilled.length === 0) continue;
      const wanted = [...used].filter(belongs).length;
      throw new RegisterPressureError(
        `kernel ${kernel}: an innermost loop mentions ${wanted} ${spilled[0].type} values and ${spilled.length} of them ` +
          `found no register (${file.registers.length} exist). Use fewer at once, or allow it with maySpill.`,
      );
    }
  }
  return allocation;
}

function scan(
  intervals: readonly Interval[],
  registers: readonly number[],
  fixed: ReadonlyMap<Reg, number>,
): Allocation {
  const places = new Map<Reg, number>();
  const slots = new Map<Reg, number>();
  const free = new Set(registers);
  let active: Interval[] = [];
  for (const interval of intervals) {
    const still: Interval[] = [];
    for (const other of active) {
      if (other.end >= interval.start) still.push(other);
      else free.add(places.get(other.reg)!);
    }
    active = still;
    if (free.size === 0) {
      let victim = interval;
      for (const other of active) if (other.weight < victim.weight) victim = other;
      slots.set(victim.reg, slots.size);
      if (victim === interval) continue;
      const place = places.get(victim.reg)!;
      places.delete(victim.reg);
      active = active.filter((other) => other !== victim);
      free.add(place);
    }
    const place = choose(interval, registers, free, places, fixed);
    places.set(interval.reg, place);
    free.delete(place);
    active.push(interval);
  }
  return { places, slots };
}

function choose(
  interval: Interval,
  registers: readonly number[],
  free: ReadonlySet<number>,
  places: ReadonlyMap<Reg, number>,
  fixed: ReadonlyMap<Reg, number>,
): number {
  const wanted = fixed.get(interval.reg);
  if (wanted !== undefined && free.has(wanted)) return wanted;
  for (const hint of interval.hints) {
    const place = places.get(hint);
    if (place !== undefined && free.has(place)) return place;
  }
  return registers.find((register) => free.has(register))!;
}
