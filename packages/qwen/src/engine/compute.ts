import { cat, noGrad, rowsAs, scope, Tensor } from "@tslm/tensor";
import type { CacheRows } from "../model/cache.ts";
import { Decoding } from "../model/decoding.ts";
import type { LanguageModel } from "../model/pass.ts";
import { type Part, passOfParts, rowsOf } from "./parts.ts";

/** What a step is asked for. */
export interface Step {
  /** Rows of prompts, computed by the means for many rows. */
  readonly prompts: readonly Part[];
  /** Rows of answers, by the means for few. */
  readonly answers: readonly Part[];
}

/** What is computed: scores for the rows that were wanted, and hidden states of others. */
export interface Computed {
  /** f32 [wanted rows, vocabulary], those of prompts first; undefined where none was wanted. */
  readonly logits: Tensor | undefined;
  /** f32 [rows, hidden] of each part for which hidden states were wanted. */
  readonly hidden: ReadonlyMap<Part, Tensor>;
}

/** Where the rows of each part begin. */
export function firstRows(parts: readonly Part[]): Map<Part, number> {
  const first = new Map<Part, number>();
  let row = 0;
  for (const part of parts) {
    first.set(part, row);
    row += rowsOf(part);
  }
  return first;
}

/** Takes steps' rows through a model. */
export class Computing implements Disposable {
  readonly #model: LanguageModel;
  readonly #cache: CacheRows;
  /** Of steps in which every sequence is given its next token, and nothing else is done. */
  readonly #decoding: Decoding;

  constructor(model: LanguageModel, cache: CacheRows) {
    this.#model = model;
    this.#cache = cache;
    this.#decoding = new Decoding(model, (hidden) => model.logits(hidden));
  }

  /**
   * Results belong to the caller, and are read before the next step.
   *
   * @param wantsLogits rows of a part, from its first one, whose scores are wanted
   * @param wantsHidden whether a part's hidden states are
   */
  compute(
    { prompts, answers }: Step,
    wantsLogits: (part: Part) => readonly number[],
    wantsHidden: (part: Part) => boolean,
  ): Computed {
    if (
      prompts.length === 0 &&
      answers.length > 0 &&
      answers.every((part) => wantsLogits(part).length === rowsOf(part) && !wantsHidden(part))
    ) {
      const logits = rowsAs("few", () => this.#decoding.run(passOfParts(answers, this.#cache)));
      return { logits: logits.alias(), hidden: new Map() };
    }
    return noGrad(() => {
      const hidden = new Map<Part, Tensor>();
      const logits = scope(() => {
        const picked: Tensor[] = [];
        for (const [parts, kind] of [
          [prompts, "many"],
          [answers, "few"],
        ] as const) {
          if (parts.length === 0) continue;
          const states = rowsAs(kind, () => this.#model.hidden(passOfParts(parts, this.#cache)));
          const first = firstRows(parts);
          for (const part of parts) {
            if (!wantsHidden(part)) continue;
            const at = first.get(part)!;
            hidden.set(part, scope(() => states.slice(0, at, at + rowsOf(part)).clone()).keep());
          }
          const rows = parts.flatMap((part) => wantsLogits(part).map((row) => first.get(part)! + row));
          if (rows.length === states.shape[0]) picked.push(states);
          else if (rows.length > 0) picked.push(states.indexSelect(indexOf(rows, this.#model)));
        }
        if (picked.length === 0) return undefined;
        return rowsAs("few", () => this.#model.logits(picked.length === 1 ? picked[0] : cat(picked)));
      });
      return { logits: logits?.keep(), hidden };
    });
  }

  dispose(): void {
    this.#decoding.dispose();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}

function indexOf(rows: readonly number[], { device }: LanguageModel): Tensor {
  return Tensor.from(rows, [rows.length], { dtype: "i32", device });
}
