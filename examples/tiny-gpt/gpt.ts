// A small GPT over single characters: pre-norm blocks of attention and MLP, rotary positions, tied embeddings.
import {
  attention,
  Embedding,
  type Generator,
  Linear,
  linearCrossEntropy,
  Module,
  noGrad,
  parameter,
  RMSNorm,
  randn,
  rope,
  type Segment,
  scope,
  type Tensor,
  tensor,
} from "@tslm/tensor";

export interface Size {
  vocabulary: number;
  width: number;
  heads: number;
  layers: number;
}

class Block extends Module {
  heads: number;
  attentionNorm: RMSNorm;
  qkv: Linear;
  out: Linear;
  mlpNorm: RMSNorm;
  up: Linear;
  down: Linear;

  constructor({ width, heads }: Size, random: Generator) {
    super();
    this.heads = heads;
    this.attentionNorm = RMSNorm.init(width);
    this.qkv = Linear.init(width, 3 * width, random, { bias: false });
    this.out = Linear.init(width, width, random, { bias: false });
    this.mlpNorm = RMSNorm.init(width);
    this.up = Linear.init(width, 4 * width, random);
    this.down = Linear.init(4 * width, width, random);
  }

  /** @param x [rows, width]: sequences end to end, `segments` tells where each lies */
  forward(x: Tensor, positions: Tensor, frequencies: Tensor, segments: readonly Segment[]): Tensor {
    const [rows, width] = x.shape;
    const parts = this.qkv.forward(this.attentionNorm.forward(x)).reshape(rows, 3, this.heads, width / this.heads);
    const [q, k, v] = [0, 1, 2].map((part) => parts.select(1, part));
    const turned = [q, k].map((part) => rope(part, positions, frequencies));
    const seen = attention(turned[0], turned[1], v, segments).reshape(rows, width);
    const y = this.out.forward(seen, x);
    return this.down.forward(this.up.forward(this.mlpNorm.forward(y)).silu(), y);
  }
}

export class Gpt extends Module {
  size: Size;
  embedding: Embedding;
  blocks: Block[];
  norm: RMSNorm;

  constructor(size: Size, random: Generator) {
    super();
    this.size = size;
    this.embedding = new Embedding(parameter(() => randn([size.vocabulary, size.width], random.next()).mul(0.02)));
    this.blocks = Array.from({ length: size.layers }, () => new Block(size, random));
    this.norm = RMSNorm.init(size.width);
  }

  /** Hidden states [rows, width] of sequences laid end to end. */
  hidden(sequences: readonly ArrayLike<number>[]): Tensor {
    const segments: Segment[] = [];
    let row = 0;
    for (const { length } of sequences) {
      segments.push({ query: row, queries: length, key: row, keys: length });
      row += length;
    }
    const ids = tensor(
      sequences.flatMap((ids) => Array.from(ids)),
      { dtype: "i32" },
    );
    const positions = tensor(
      sequences.flatMap((ids) => Array.from(ids, (_, i) => i)),
      { dtype: "i32" },
    );
    const half = this.size.width / this.size.heads / 2;
    const frequencies = tensor(Array.from({ length: half }, (_, i) => 10_000 ** (-i / half)));
    let x = this.embedding.forward(ids);
    for (const block of this.blocks) x = block.forward(x, positions, frequencies, segments);
    return this.norm.forward(x);
  }

  /** Mean −log p of each sequence's characters after its first. */
  loss(sequences: readonly ArrayLike<number>[]): Tensor {
    // The last character predicts nothing: a target below 0.
    const targets = sequences.flatMap((ids) => [...Array.from(ids).slice(1), -1]);
    const count = targets.filter((id) => id >= 0).length;
    const scale = tensor(targets.map(() => 1 / count));
    return linearCrossEntropy(this.hidden(sequences), this.embedding.weight, tensor(targets, { dtype: "i32" }), scale);
  }

  /** Logits of the character after `ids`. */
  async next(ids: readonly number[]): Promise<Float32Array> {
    const logits = scope(() =>
      noGrad(() =>
        this.hidden([ids])
          .slice(0, ids.length - 1)
          .matmul(this.embedding.weight.T),
      ),
    );
    const values = (await logits.data()) as Float32Array;
    logits.dispose();
    return values;
  }
}
