/** What the process held in a stretch of time, and what it had done by then. */
export interface Sample {
  /** Seconds since the start. */
  readonly seconds: number;
  readonly tokens: number;
  /** Of this stretch. */
  readonly tokens_per_s: number;
  /** The most of the stretch, mapped files not counted. */
  readonly rss_anonymous_bytes: number;
  readonly rss_file_bytes: number;
  /** Bytes of JavaScript's objects. */
  readonly heap_bytes: number;
  /** Between two answers or steps, when nothing but the model is left. */
  readonly tensors: number;
  readonly tensor_bytes: number;
}

/** How much the later half may lie above the earlier one: two collections of garbage never end at the same byte. */
const SHARE = 1.02;
const BYTES = 8e6;

/** Shares of the samples: the first are left out, while kernels are compiled and memory is touched for the first time. */
const WARM_UP = 1 / 10;

export const RULE =
  "Flat means: the first tenth left out, the later half's median of anonymous resident memory is at most 2 % and 8 MB above the earlier half's, and as many tensors of as many bytes are alive at every line.";

/** Whether memory stayed flat, and the numbers that say so. */
export function flatness(samples: readonly Sample[]): { flat: boolean; says: string } {
  const warm = samples.slice(Math.ceil(samples.length * WARM_UP));
  if (warm.length < 4) return { flat: false, says: `${samples.length} samples are too few to tell: at least 5` };
  const half = warm.length >> 1;
  const [early, late] = [warm.slice(0, half), warm.slice(-half)].map((part) =>
    median(part.map((sample) => sample.rss_anonymous_bytes)),
  );
  const [first] = warm;
  const other = warm.find(
    ({ tensors, tensor_bytes }) => tensors !== first.tensors || tensor_bytes !== first.tensor_bytes,
  );
  const resident = `anonymous resident memory went from ${megabytes(early)} to ${megabytes(late)}`;
  if (other) {
    const [before, after] = [first, other].map((one) => `${one.tensors} of ${one.tensor_bytes} bytes`);
    return { flat: false, says: `tensors were left over: ${before}, then ${after}; ${resident}` };
  }
  const flat = late <= SHARE * early + BYTES;
  return { flat, says: `Memory ${flat ? "stayed flat" : "grew"}: ${resident}; ${first.tensors} tensors all the time.` };
}

const megabytes = (bytes: number): string => `${(bytes / 1e6).toFixed(1)} MB`;

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[values.length >> 1];
}
