import { commonDevice } from "../devices/registry.ts";
import { DTypeError, ShapeError, TensorError } from "../errors.ts";
import { IDENTITY } from "../expr/program.ts";
import { show } from "../shape.ts";
import { Tensor } from "../tensor.ts";

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
  /** Every tensor of the model by full name. One that stands in two places (tied weights) comes once, under the first. */
  *namedParameters(): Generator<[string, Tensor]> {
    const seen = new Set<Tensor>();
    for (const [path, module] of this.namedModules()) {
      for (const [name, value] of Object.entries(module)) {
        if (!(value instanceof Tensor) || seen.has(value)) continue;
        seen.add(value);
        yield [path ? `${path}.${name}` : name, value];
      }
    }
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
  stateDict(): Map<string, Tensor> {
    return new Map(this.namedParameters());
  }
  /**
   * Copies values into the parameters of the same names.
   * @throws ShapeError naming every missing, unexpected or mis-shaped tensor
   */
  loadStateDict(state: ReadonlyMap<string, Tensor>): void {
    const own = this.stateDict();
    const problems = [
      ...[...own.keys()].filter((name) => !state.has(name)).map((name) => `missing ${name}`),
      ...[...state.keys()].filter((name) => !own.has(name)).map((name) => `unexpected ${name}`),
      ...[...own].flatMap(([name, t]) => {
        const given = state.get(name);
        return given && show(given.shape) !== show(t.shape)
          ? [`${name} is ${show(given.shape)}, not ${show(t.shape)}`]
          : [];
      }),
    ];
    if (problems.length > 0) throw new ShapeError("loadStateDict", problems.join("; "));
    for (const [name, t] of own) {
      const given = state.get(name)!;
      commonDevice("loadStateDict", [t, given]);
      if (t.storage.mapped)
        throw new DTypeError("loadStateDict", `${name} lies in a mapped file and cannot be written`);
      t.device.elementwise(IDENTITY, [], [given], t);
    }
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
  /** Gives back the memory of all parameters. */
  dispose(): void {
    for (const t of this.parameters()) t.dispose();
  }
}
