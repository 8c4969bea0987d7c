import { Random } from "../../models/demo/random.ts";
import { FRAMES, HELD_OUT_FRAMES, PRODUCTS, TOPICS, type Topic } from "./topics.ts";

/** A row of the data, with the columns that training reads. */
export interface Row {
  instruction: string;
  input: string;
  output: string;
}

export interface CustomerService {
  training: Row[];
  /** Questions about the facts of the training rows, in words that none of them uses. */
  heldOut: Row[];
}

const INSTRUCTION = "回答关于云岫云产品的问题";
const TOPICS_OF_A_PRODUCT = 5;
/** Rows that teach one fact. */
export const ROWS_OF_A_FACT = 20;
const HELD_OUT_OF_A_FACT = 2;
export const MOST_ROWS = PRODUCTS.length * TOPICS_OF_A_PRODUCT * ROWS_OF_A_FACT;

/** Every `{p}`, `{q}` and `{v}` replaced. */
function fill(template: string, values: Record<string, string>): string {
  return template.replace(/\{(\w)\}/g, (_, name) => values[name]);
}

/** All questions that frames and wordings make, in random order. */
function ask(product: string, frames: readonly string[], wordings: readonly string[], random: Random): string[] {
  const all = frames.flatMap((frame) => wordings.map((q) => fill(frame, { p: product, q })));
  return random.shuffle(all);
}

/**
 * A customer-service set of an invented cloud company: facts (a product's price, telephone number, date …), each
 * asked for in 20 ways for training and 2 for testing, with one answer. The held-out questions have wordings and frames
 * that occur in no training row, so who answers them has learned the facts and not the rows.
 *
 * @param rows training rows, a multiple of 20, at most {@link MOST_ROWS}
 * @param seed decides facts, wordings and order
 */
export function makeCustomerService(rows: number, seed: number): CustomerService {
  const random = new Random(seed);
  const taken = new Map<Topic, Set<string>>(TOPICS.map((topic) => [topic, new Set()]));
  const training: Row[] = [];
  const heldOut: Row[] = [];
  const facts = random
    .shuffle(PRODUCTS)
    .flatMap((product) =>
      random
        .shuffle(TOPICS)
        .slice(0, TOPICS_OF_A_PRODUCT)
        .map((topic) => ({ product, topic })),
    )
    .slice(0, rows / ROWS_OF_A_FACT);
  for (const { product, topic } of facts) {
    const values = taken.get(topic)!;
    let value = topic.draw(random);
    while (values.has(value)) value = topic.draw(random);
    values.add(value);
    const output = fill(topic.answer, { p: product, v: value });
    const row = (input: string): Row => ({ instruction: INSTRUCTION, input, output });
    training.push(...ask(product, FRAMES, topic.asked, random).slice(0, ROWS_OF_A_FACT).map(row));
    heldOut.push(...ask(product, HELD_OUT_FRAMES, topic.heldOut, random).slice(0, HELD_OUT_OF_A_FACT).map(row));
  }
  return { training: random.shuffle(training), heldOut };
}
