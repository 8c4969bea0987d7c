import { Embedding, Linear, type Module } from "@tslm/tensor";
import type { LoraConfig } from "./config.ts";
import { ConfigError, LoraError } from "./errors.ts";
import { LoraLinear } from "./lora-linear.ts";

/** Every linear layer of a module by full name. */
export function linearLayers(model: Module): Map<string, Linear> {
  const found = new Map<string, Linear>();
  for (const [name, module] of model.namedModules()) if (module instanceof Linear) found.set(name, module);
  return found;
}

/** @throws LoraError while an adapter is attached to the model */
export function refuseAdapted(model: Module): void {
  for (const [name, module] of model.namedModules()) {
    if (module instanceof LoraLinear) {
      throw new LoraError(`${name} carries an adapter already; detach() or remove() that one first`);
    }
  }
}

/** The endings of names, each once: `q_proj, v_proj` of any number of layers. */
function endings(names: Iterable<string>): string {
  return [...new Set([...names].map((name) => name.slice(name.lastIndexOf(".") + 1)))].join(", ");
}

/**
 * A pattern of Python's `re` as JavaScript's. The two agree on all that names of layers need, but for the spelling of
 * named groups.
 */
function compile(field: string, pattern: string): RegExp {
  try {
    return new RegExp(pattern.replaceAll("(?P<", "(?<"));
  } catch (cause) {
    throw new ConfigError(field, `${field}: ${JSON.stringify(pattern)} is not a regular expression`, { cause });
  }
}

/** Python's `re.fullmatch`. */
function fullMatch(field: string, pattern: string): (name: string) => boolean {
  compile(field, pattern);
  const whole = compile(field, `^(?:${pattern})$`);
  return (name) => whole.test(name);
}

function endsWith(name: string, target: string): boolean {
  return name === target || name.endsWith(`.${target}`);
}

/** PEFT's rule for `target_modules` and `exclude_modules`: a text matches as a whole, a list by names and endings. */
function matcher(field: string, rule: string | readonly string[]): (name: string) => boolean {
  return typeof rule === "string" ? fullMatch(field, rule) : (name) => rule.some((target) => endsWith(name, target));
}

/** Is the layer's number, as `layers.7.` in its name, among those to transform? */
function inLayers(name: string, { layers_to_transform: layers, layers_pattern: pattern }: LoraConfig): boolean {
  if (layers === null || (Array.isArray(layers) && layers.length === 0)) return true;
  const patterns = pattern === null || pattern.length === 0 ? ["[^.]*"] : [pattern].flat();
  for (const part of patterns) {
    const match = compile("layers_pattern", `^.*\\.${part}\\.(\\d+)\\.`).exec(name);
    if (match) return [layers].flat().includes(Number(match.at(-1)));
  }
  return false;
}

/** Is the layer the output head: named so, or sharing its weight with an embedding? */
function isHead(model: Module): (name: string, layer: Linear) => boolean {
  const tables = new Set([...model.namedModules()].flatMap(([, m]) => (m instanceof Embedding ? [m.weight] : [])));
  return (name, layer) => endsWith(name, "lm_head") || tables.has(layer.weight);
}

/**
 * The linear layers that a configuration adapts, by PEFT's rules.
 * @throws ConfigError when none matches, naming the layers there are, or when another kind of module matches
 */
export function targetLayers(model: Module, config: LoraConfig): Map<string, Linear> {
  refuseAdapted(model);
  const { target_modules: targets, exclude_modules: excluded } = config;
  const linears = linearLayers(model);
  const all = typeof targets === "string" && targets.toLowerCase() === "all-linear";
  const head = isHead(model);
  const wanted = all ? () => true : matcher("target_modules", targets);
  const isExcluded = excluded === null || excluded.length === 0 ? () => false : matcher("exclude_modules", excluded);

  const found = new Map<string, Linear>();
  for (const [name, module] of model.namedModules()) {
    if (name === "" || isExcluded(name) || !wanted(name)) continue;
    if (!Array.isArray(targets) || inLayers(name, config)) {
      const layer = linears.get(name);
      if (layer && !(all && head(name, layer))) found.set(name, layer);
      else if (!layer && !all) {
        throw new ConfigError(
          "target_modules",
          `target_modules match ${name}, a ${module.constructor.name}: only linear layers can carry LoRA`,
        );
      }
    }
  }
  if (found.size === 0) {
    const rest = [...linears.keys()].filter(wanted).length > 0;
    throw new ConfigError(
      "target_modules",
      rest
        ? "exclude_modules, layers_to_transform and layers_pattern leave no layer of those that target_modules match"
        : `target_modules ${JSON.stringify(targets)} match no layer; the linear layers of this model are ${endings(linears.keys()) || "none"}`,
    );
  }
  return found;
}

/**
 * Refuses a list with a target that no linear layer matches: PEFT passes over a misspelt name in silence.
 * @throws ConfigError naming the target and the layers there are
 */
export function refuseUnmatched(model: Module, { target_modules: targets }: LoraConfig): void {
  if (typeof targets === "string") return;
  const names = [...linearLayers(model).keys()];
  const unmatched = targets.filter((target) => !names.some((name) => endsWith(name, target)));
  if (unmatched.length > 0) {
    throw new ConfigError(
      "target_modules",
      `target_modules: no layer is called ${unmatched.join(", ")}; the linear layers of this model are ${endings(names)}`,
    );
  }
}

/** Rank and α of one layer: PEFT's `rank_pattern` and `alpha_pattern`, whose keys are expressions on the name's end. */
export function rankAndAlpha(name: string, config: LoraConfig): { rank: number; alpha: number } {
  const pick = (field: "rank_pattern" | "alpha_pattern", otherwise: number): number => {
    const key = Object.keys(config[field]).find((k) => compile(field, `^(.*\\.)?(${k})$`).test(name));
    return key === undefined ? otherwise : config[field][key];
  };
  return { rank: pick("rank_pattern", config.r), alpha: pick("alpha_pattern", config.lora_alpha) };
}
