import type { Segment, Tensor } from "@tslm/tensor";

/** Sequences laid end to end for one forward and backward pass. */
export interface TrainingPass {
  /** Token ids, [rows]. */
  tokens: Int32Array;
  /** Each row's place in its sequence, from 0. */
  positions: Int32Array;
  /** Where each sequence lies: attention stays inside. */
  segments: Segment[];
  /** The id to predict from each row; negative where nothing is. */
  targets: Int32Array;
  /** Factor of each row's loss: its sequence's weight / Σ weights of the step's predicted tokens. */
  scale: Float32Array;
  /**
   * f32 [rows with a target], all −1: a model that knows writes there, in their order, 1 where no token was likelier than
   * the target and 0 elsewhere.
   */
  correct?: Tensor;
  /** Share of each target that goes to all tokens evenly, 0 … 1. */
  labelSmoothing?: number;
  /** Changes the embeddings [rows, hidden] on their way into the first layer: noise. */
  perturb?: (embeddings: Tensor) => Tensor;
}

/** What the trainer needs of a model. */
export interface TrainableModel {
  /** Σ scale·(−log p(target)) over the pass's rows: a scalar that gradients flow from. */
  loss(pass: TrainingPass): Tensor;
  /** Keep only what is needed to compute a layer again for its gradient: less memory, one more forward pass. */
  recompute?: boolean;
  /** Bytes that a pass over so many rows needs besides the weights, with or without `recompute`. */
  activationBytes?(rows: number, recompute: boolean): number;
  /** Floating-point operations of a pass, forward alone or backward too, about. */
  passFlops?(size: PassSize, backward: boolean, recompute: boolean): number;
}

/** How much there is to compute in a pass. */
export interface PassSize {
  rows: number;
  /** Sum of the squared lengths of its sequences. */
  squares: number;
  /** Rows that predict a token. */
  predicted: number;
}

/** One sequence to train on. */
export interface TrainingSequence {
  /** Token ids. */
  tokens: readonly number[];
  /** Same length: what to predict from each token, that is the next token's id, or −1 where it carries no loss. */
  targets: readonly number[];
  /** How much each of its tokens counts in the mean, above 0. Default 1. */
  weight?: number;
}

/** A pass, and which (sequence, token) each row is: i32 [rows, 2], the sequence by its number in the step. */
export interface PlacedPass extends TrainingPass {
  rows: Int32Array;
}

/** Tokens that carry loss. */
export function predictedTokens(sequences: readonly TrainingSequence[]): number {
  return sequences.reduce((n, { targets }) => n + targets.reduce((m, t) => m + (t >= 0 ? 1 : 0), 0), 0);
}

/** How much there is to compute for sequences, in as many passes as it may be. */
export function passSize(sequences: readonly TrainingSequence[]): PassSize {
  const lengths = sequences.map(usefulLength);
  return {
    rows: lengths.reduce((sum, n) => sum + n, 0),
    squares: lengths.reduce((sum, n) => sum + n * n, 0),
    predicted: predictedTokens(sequences),
  };
}

/** What a step's loss is divided by: the predicted tokens, each as much as its sequence's weight. */
function totalWeight(sequences: readonly TrainingSequence[]): number {
  return sequences.reduce((sum, sequence) => sum + (sequence.weight ?? 1) * predictedTokens([sequence]), 0);
}

/** Rows of a sequence that its loss depends on: up to the last token that predicts one; later ones change nothing. */
function usefulLength({ targets }: TrainingSequence): number {
  let length = targets.length;
  while (length > 0 && targets[length - 1] < 0) length--;
  return length;
}

/**
 * Lays a step's sequences end to end, in order, in as few passes as `tokensPerPass` rows allow; a longer sequence has
 * a pass for itself. The split changes nothing but memory: the passes' losses and gradients add up to the step's.
 */
export function packPasses(sequences: readonly TrainingSequence[], tokensPerPass: number): PlacedPass[] {
  const scale = 1 / totalWeight(sequences);
  const groups: { sequence: number; length: number }[][] = [];
  let room = 0;
  sequences.forEach((item, sequence) => {
    const length = usefulLength(item);
    if (length === 0) return;
    if (length > room || groups.length === 0) {
      groups.push([]);
      room = tokensPerPass;
    }
    groups.at(-1)!.push({ sequence, length });
    room -= length;
  });
  return groups.map((group) => layOut(sequences, group, scale));
}

function layOut(
  sequences: readonly TrainingSequence[],
  group: readonly { sequence: number; length: number }[],
  scale: number,
): PlacedPass {
  const rows = group.reduce((n, { length }) => n + length, 0);
  const pass: PlacedPass = {
    tokens: new Int32Array(rows),
    positions: new Int32Array(rows),
    segments: [],
    targets: new Int32Array(rows),
    scale: new Float32Array(rows),
    rows: new Int32Array(2 * rows),
  };
  let at = 0;
  for (const { sequence, length } of group) {
    const { tokens, targets, weight = 1 } = sequences[sequence];
    pass.segments.push({ query: at, queries: length, key: at, keys: length });
    for (let i = 0; i < length; i++, at++) {
      pass.tokens[at] = tokens[i];
      pass.positions[at] = i;
      pass.targets[at] = targets[i];
      pass.scale[at] = targets[i] >= 0 ? weight * scale : 0;
      pass.rows[2 * at] = sequence;
      pass.rows[2 * at + 1] = i;
    }
  }
  return pass;
}
