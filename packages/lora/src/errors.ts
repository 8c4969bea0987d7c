/** Base of every error that this package throws on purpose. */
export class LoraError extends Error {
  override readonly name: string = "LoraError";
}

/** A LoRA configuration that cannot be applied; `field` is PEFT's name of the setting. */
export class ConfigError extends LoraError {
  override readonly name = "ConfigError";
  readonly field: string;
  constructor(field: string, message: string, options?: ErrorOptions) {
    super(message, options);
    this.field = field;
  }
}

/** A training option with a value that cannot be used. */
export class OptionError extends LoraError {
  override readonly name = "OptionError";
  readonly option: string;
  constructor(option: string, message: string, options?: ErrorOptions) {
    super(message, options);
    this.option = option;
  }
}

/** An adapter's folder or file that is missing, broken, made for another model, or cannot be written. */
export class AdapterError extends LoraError {
  override readonly name = "AdapterError";
  /** Path of the file or folder. */
  readonly file: string;
  constructor(file: string, problem: string, options?: ErrorOptions) {
    super(`${file}: ${problem}`, options);
    this.file = file;
  }
}

/** A loss or gradient that is no number any more: the run ended, the adapter is as it was before the step. */
export class DivergenceError extends LoraError {
  override readonly name = "DivergenceError";
  /** The step, counted from 1. */
  readonly step: number;
  constructor(step: number, message: string) {
    super(message);
    this.step = step;
  }
}

/** A checkpoint that is missing, broken, or of another run. */
export class CheckpointError extends LoraError {
  override readonly name = "CheckpointError";
}

/** A run that left the adapter as it was: nothing was learned. */
export class UnchangedError extends LoraError {
  override readonly name = "UnchangedError";
}
