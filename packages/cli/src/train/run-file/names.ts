import { distance } from "fastest-levenshtein";

/** Names of transformers, TRL, PEFT, LLaMA-Factory and Axolotl for what is called otherwise here. */
const ELSEWHERE: Readonly<Record<string, string>> = {
  "learning-rate": "lr",
  "num-train-epochs": "epochs",
  "num-epochs": "epochs",
  "per-device-train-batch-size": "batch",
  "micro-batch-size": "batch",
  "batch-size": "batch",
  "gradient-accumulation-steps": "grad-accum",
  r: "rank",
  "lora-r": "rank",
  "lora-rank": "rank",
  "lora-alpha": "alpha",
  "lora-dropout": "dropout",
  "target-modules": "targets",
  "lora-target": "targets",
  "lora-target-modules": "targets",
  "exclude-modules": "exclude",
  "layers-to-transform": "layers",
  "max-seq-length": "max-length",
  "cutoff-len": "max-length",
  "sequence-len": "max-length",
  "lr-scheduler-type": "scheduler",
  "lr-scheduler": "scheduler",
  "warmup-ratio": "warmup",
  "max-grad-norm": "clip",
  "label-smoothing-factor": "label-smoothing",
  "neftune-noise-alpha": "neftune-alpha",
  "output-dir": "out",
  "model-name-or-path": "model",
  "base-model": "model",
  dataset: "data",
  datasets: "data",
  "val-set-size": "validation-split",
  "val-size": "validation-split",
  "eval-steps": "eval-every",
  "save-steps": "save-every",
  "no-shuffle": "shuffle",
};

/** The key that was probably meant; undefined where none is near. */
export function meantKey(key: string, keys: readonly string[]): string | undefined {
  const plain = key
    .replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)
    .replaceAll(/[_\s]+/g, "-")
    .replace(/^-+/, "");
  if (keys.includes(plain)) return plain;
  const known = Object.hasOwn(ELSEWHERE, plain) ? ELSEWHERE[plain] : undefined;
  if (known !== undefined && keys.includes(known)) return known;
  const near = keys.map((name) => ({ name, far: distance(plain, name) })).sort((a, b) => a.far - b.far)[0];
  return near !== undefined && near.far <= Math.max(1, plain.length / 3) ? near.name : undefined;
}
