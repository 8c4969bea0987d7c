import { applyLora, type Lora, loadAdapter } from "@tslm/lora";
import type { Qwen } from "@tslm/qwen";
import { Generator } from "@tslm/tensor";
import { RECIPES } from "../recipe.ts";
import type { TrainCommandOptions } from "./options.ts";

/** The adapter to train: a new one, or the one to start from. */
export async function makeAdapter({ model }: Qwen, options: TrainCommandOptions): Promise<Lora> {
  if (options.initAdapter !== undefined) return loadAdapter(options.initAdapter, model);
  const recipe = RECIPES[options.recipe];
  const targets = options.targets ?? ["q_proj", "v_proj"];
  const config = {
    r: options.rank ?? recipe.rank,
    lora_alpha: options.alpha ?? recipe.alpha,
    lora_dropout: options.dropout ?? 0.1,
    target_modules: targets.length === 1 && targets[0] === "all" ? "all-linear" : targets,
  };
  return applyLora(model, config, new Generator(options.seed));
}
