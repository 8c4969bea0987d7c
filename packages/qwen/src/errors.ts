/** A file of a model folder is missing, unreadable, or says something this package cannot run. */
export class ModelFileError extends Error {
  override readonly name = "ModelFileError";
  /** Path of the file. */
  readonly file: string;
  /** Dotted path of the offending field, where there is one. */
  readonly field: string | undefined;

  constructor(file: string, problem: string, options: { field?: string; cause?: unknown } = {}) {
    super(options.field === undefined ? `${file}: ${problem}` : `${file}: ${options.field}: ${problem}`, {
      cause: options.cause,
    });
    this.file = file;
    this.field = options.field;
  }
}
