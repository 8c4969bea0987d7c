import { commonDevice } from "../devices/registry.ts";
import { DTypeError, ShapeError, TensorError } from "../errors.ts";
import { IDENTITY } from "../expr/program.ts";
import { show } from "../shape.ts";
import { Tensor } from "../tensor.ts";

/** Names that only one side had; see {@link Module.loadStateDict}. */
export interface StateDifference {
  readonly missing: readonly string[];
  readonly unexpected: readonly string[];
}

/**
 * A part of a model: its tensors and sub-modules are found in its own fields (also in arrays of modules), and named as
 * PyTorch names them: `layers.0.self_attn.q_proj.weight`.
 */
export abstract class Module {
  /** Dropout is active; see {@link train} and {@link eval}. */
  training = true;

  /** Direct sub-modules by field name, array elements as `name.index`. */
  *namedChildren(): Generator<[string, Module]> {
    for (const [name, value] of Object.entries(this)) {
      if (value instanceof Module) yield [name, value];
      else if (Array.isArray(value)) {
        for (let i = 0; i < value.length; i++) if (value[i] instanceof Module) yield [`${name}.${i}`, value[i]];
      }
    }
  }
  /** This module and all below it, by full name (the module itself is ""). One that stands in two places comes once. */
  *namedModules(prefix = "", seen = new Set<Module>()): Generator<[string, Module]> {
    if (seen.has(this)) return;
    seen.add(this);
    yield [prefix, this];
    for (const [name, child] of this.namedChildren()) {
      yield* child.namedModules(prefix ? `${prefix}.${name}` : name, seen);
    }
  }
  /** Fields whose tensors are kept beside the parameters but never trained, as running means: PyTorch's buffers. */
  get bufferNames(): readonly string[] {
    return [];
  }
  *#named(wanted: (module: Module, name: string) => boolean): Generator<[string, Tensor]> {
    const seen = new Set<Tensor>();
    for (const [path, module] of this.namedModules()) {
      for (const [name, value] of Object.entries(module)) {
        if (!(value instanceof Tensor) || seen.has(value) || !wanted(module, name)) continue;
        seen.add(value);
        yield [path ? `${path}.${name}` : name, value];
      }
    }
  }
  /** Every parameter by full name. One that stands in two places (tied weights) comes once, under the first. */
  namedParameters(): Generator<[string, Tensor]> {
    return this.#named((module, name) => !module.bufferNames.includes(name));
  }
  /** Every tensor by full name that is kept but not trained; see {@link bufferNames}. */
  namedBuffers(): Generator<[string, Tensor]> {
    return this.#named((module, name) => module.bufferNames.includes(name));
  }
  parameters(): Tensor[] {
    return [...this.namedParameters()].map(([, t]) => t);
  }
  /** The parameters that training changes. */
  trainableParameters(): Tensor[] {
    return this.parameters().filter((t) => t.requiresGrad);
  }
  /** Puts another module in the place of the one named. @throws TensorError when there is none */
  replace(name: string, module: Module): void {
    const path = name.split(".");
    const last = path.pop()!;
    const parent = path.reduce<Record<string, unknown>>(
      (at, part) => at?.[part] as Record<string, unknown>,
      this as unknown as Record<string, unknown>,
    );
    if (!(parent?.[last] instanceof Module))
      throw new TensorError("replace", `there is no module ${name} in ${this.constructor.name}`);
    parent[last] = module;
  }
  /** Every parameter and buffer by full name: the tensors themselves. PyTorch's `state_dict`. */
  stateDict(): Map<string, Tensor> {
    return new Map(this.#named(() => true));
  }
  /**
   * Copies values into the parameters and buffers of the same names: PyTorch's `load_state_dict`.
   * @param strict whether names must be the same on both sides; otherwise the result tells which were not
   * @throws ShapeError naming every missing, unexpected or mis-shaped tensor
   */
  loadStateDict(state: ReadonlyMap<string, Tensor>, { strict = true }: { strict?: boolean } = {}): StateDifference {
    const own = this.stateDict();
    const missing = [...own.keys()].filter((name) => !state.has(name));
    const unexpected = [...state.keys()].filter((name) => !own.has(name));
    const problems = [
      ...(strict ? missing.map((name) => `missing ${name}`) : []),
      ...(strict ? unexpected.map((name) => `unexpected ${name}`) : []),
      ...[...own].flatMap(([name, t]) => {
        const given = state.get(name);
        return given && show(given.shape) !== show(t.shape)
          ? [`${name} is ${show(given.shape)}, not ${show(t.shape)}`]
          : [];
      }),
    ];
    if (problems.length > 0) throw new ShapeError("loadStateDict", problems.join("; "));
    for (const [name, t] of own) {
      const given = state.get(name);
      if (!given) continue;
      commonDevice("loadStateDict", [t, given]);
      if (t.storage.mapped)
        throw new DTypeError("loadStateDict", `${name} lies in a mapped file and cannot be written`);
      t.device.elementwise(IDENTITY, [], [given], t);
    }
    return { missing, unexpected };
  }
  train(on = true): this {
    for (const [, module] of this.namedModules()) module.training = on;
    return this;
  }
  eval(): this {
    return this.train(false);
  }
  /** Freezes (or frees) every parameter. */
  requiresGrad(on: boolean): this {
    for (const t of this.parameters()) t.requiresGrad = on;
    return this;
  }
  /** Gives back the memory of all parameters and buffers. */
  dispose(): void {
    for (const t of this.stateDict().values()) t.dispose();
  }
}
