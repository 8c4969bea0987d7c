import {
  baseMismatch,
  type Lora,
  type LoraConfigInput,
  linearLayers,
  loadAdapter,
  readPrompt,
  startLora,
} from "@tslm/lora";
import type { Qwen } from "@tslm/qwen";
import { Generator } from "@tslm/tensor";
import { warnOfOtherBases } from "../adapter.ts";
import { CommandError } from "../errors.ts";
import { Progress } from "../progress.ts";
import { RECIPES } from "../recipe.ts";
import type { Context } from "../run.ts";
import type { TrainCommandOptions } from "./options.ts";
import { startOf } from "./variant-options.ts";

/** The adapter to train: a new one, or the one to start from. */
export async function makeAdapter(
  { terminal, signal }: Context,
  { model }: Qwen,
  options: TrainCommandOptions,
): Promise<Lora> {
  if (options.initAdapter !== undefined) {
    const lora = await loadAdapter(options.initAdapter, model);
    const mismatch = await baseMismatch(await readPrompt(options.initAdapter), model);
    warnOfOtherBases({ terminal }, [{ dir: options.initAdapter, mismatch }]);
    return lora;
  }
  const recipe = RECIPES[options.recipe];
  const config: LoraConfigInput = {
    r: options.rank ?? recipe.rank,
    lora_alpha: options.alpha ?? recipe.alpha,
    lora_dropout: options.dropout ?? 0.1,
    target_modules: targetsOf(model, options),
    exclude_modules: options.exclude,
    layers_to_transform: layersOf(model, options),
    use_rslora: options.useRslora,
    use_dora: options.useDora,
    init_lora_weights: startOf(options),
  };
  const progress = new Progress(terminal, "Decomposing");
  try {
    const onProgress = (done: number, total: number) => progress.update(done / total, `${done} of ${total} weights`);
    return await startLora(model, config, new Generator(options.seed), { signal, onProgress });
  } finally {
    progress.stop();
  }
}

/** PEFT takes no numbers of layers beside `all-linear`, so that is written out with them. */
function targetsOf(model: Qwen["model"], { targets, layers }: TrainCommandOptions): string | string[] {
  if (targets === undefined) return ["q_proj", "v_proj"];
  if (targets.length !== 1 || targets[0] !== "all") return targets;
  if (layers === undefined) return "all-linear";
  const inBlocks = [...linearLayers(model).keys()].filter((name) => /\.\d+\./.test(name));
  return [...new Set(inBlocks.map((name) => name.slice(name.lastIndexOf(".") + 1)))];
}

/** @throws CommandError for a layer that the model has not: PEFT would pass over it in silence */
function layersOf({ config }: Qwen["model"], { layers }: TrainCommandOptions): number[] | undefined {
  const beyond = layers?.find((layer) => layer >= config.numHiddenLayers);
  if (beyond === undefined) return layers;
  throw new CommandError(
    `--layers: the model has no layer ${beyond}; its ${config.numHiddenLayers} layers are 0 to ${config.numHiddenLayers - 1}`,
  );
}
