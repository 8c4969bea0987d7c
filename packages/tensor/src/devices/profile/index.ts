import type { Device } from "../device.ts";
import { COSTS, type Cost, type Primitive } from "./costs.ts";

/** One call of a primitive. */
export interface Call extends Cost {
  readonly primitive: Primitive;
  readonly seconds: number;
}

/** Calls of one kind taken together. */
export interface ProfileRow extends Cost {
  readonly primitive: Primitive;
  readonly calls: number;
  readonly seconds: number;
}

/** What was called, and how long it took; costs are worked out when the run is over. */
interface Recorded {
  readonly primitive: Primitive;
  readonly args: readonly never[];
  readonly seconds: number;
}

/** Records the calls of a {@link profiled} device. */
export class Profile {
  #recorded: Recorded[] = [];

  /** For {@link profiled}. */
  record(call: Recorded): void {
    this.#recorded.push(call);
  }
  /** The calls since the last time, in order. */
  take(): Call[] {
    const recorded = this.#recorded;
    this.#recorded = [];
    return recorded.map(({ primitive, args, seconds }) => ({
      primitive,
      seconds,
      ...(COSTS[primitive] as (...args: never[]) => Cost)(...args),
    }));
  }
}

/**
 * The same device, with every call of a primitive timed in `profile`. Tensors must be made on it, not on the device
 * below. Times are those inside the call: on a device that returns before it is done, only what the caller spends.
 *
 * @example
 * const profile = new Profile();
 * setDefaultDevice(profiled(await createDevice("cpu"), profile));
 */
export function profiled(device: Device, profile: Profile): Device {
  const methods = new Map<PropertyKey, unknown>();
  for (const primitive of Object.keys(COSTS) as Primitive[]) {
    const method = device[primitive] as ((...args: never[]) => void) | undefined;
    if (!method) continue;
    const run = method.bind(device);
    methods.set(primitive, (...args: never[]) => {
      const started = performance.now();
      run(...args);
      profile.record({ primitive, args, seconds: (performance.now() - started) / 1000 });
    });
  }
  return new Proxy(device, {
    get(target, key) {
      // A recording's calls would not be seen when they are made again.
      if (key === "record") return undefined;
      let found = methods.get(key);
      if (found === undefined) {
        found = Reflect.get(target, key);
        if (typeof found === "function") methods.set(key, (found = found.bind(target)));
      }
      return found;
    },
  });
}

/** Calls by kind, the longest first. */
export function profileRows(calls: readonly Call[]): ProfileRow[] {
  const rows = new Map<string, { -readonly [K in keyof ProfileRow]: ProfileRow[K] }>();
  for (const { primitive, detail, seconds, flops, bytes } of calls) {
    const key = `${primitive} ${detail}`;
    let row = rows.get(key);
    if (!row) rows.set(key, (row = { primitive, detail, calls: 0, seconds: 0, flops: 0, bytes: 0 }));
    row.calls++;
    row.seconds += seconds;
    row.flops += flops;
    row.bytes += bytes;
  }
  return [...rows.values()].sort((a, b) => b.seconds - a.seconds);
}

/**
 * One run out of several of the same work: each call with its shortest time, so that what else the machine did
 * meanwhile counts little. @throws RangeError when the runs did not do the same calls
 */
export function quietest(runs: readonly (readonly Call[])[]): Call[] {
  const [first = [], ...others] = runs;
  return first.map((call, i) => {
    let { seconds } = call;
    for (const run of others) {
      const other = run[i];
      if (run.length !== first.length || other?.primitive !== call.primitive || other.detail !== call.detail) {
        throw new RangeError(`the runs differ at call ${i + 1}, ${call.primitive} ${call.detail}`);
      }
      seconds = Math.min(seconds, other.seconds);
    }
    return { ...call, seconds };
  });
}
