import { type Module, noGrad, scope, type Tensor } from "@tslm/tensor";
import { baseParameters } from "../base-fingerprint.ts";
import type { Lora } from "../lora.ts";

/**
 * Gives a model's parameters by their names, an adapter merged into those that it changes: W + s·B·A in f32, made when asked
 * for. What it returns is the caller's to dispose of.
 */
export function mergedParameters(model: Module, lora?: Lora): (name: string) => Tensor {
  const base = baseParameters(model);
  return (name) => {
    const layer = name.endsWith(".weight") ? lora?.layers.get(name.slice(0, -".weight".length)) : undefined;
    if (layer) return scope(() => noGrad(() => layer.variant.mergedWeight(layer))).keep();
    const found = base.get(name);
    if (!found) throw new TypeError(`the model has no parameter ${name}`);
    return found.alias();
  };
}
