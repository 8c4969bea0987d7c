/**
 * Products with weights in quantised blocks.
 *
 * For a few rows: `quantizeRows` turns the rows into signed bytes in groups of 32 with a scale each, as llama.cpp does
 * before its products, and `blockGemv` multiplies bytes by bytes, so weights are read once, as they lie, at memory
 * speed. For many rows `decodeRows` writes weights out as f32, some rows at a time, for `gemm`.
 */

import { BLOCKS, type BlockType } from "../../../dtype.ts";
import { MAX_HALF, type QuantizableType } from "../../../quantized/encode.ts";
import type { Builder } from "../lang/builder.ts";
import { type Arguments, type ArgumentTypes, defineKernel, type Kernel } from "../lang/kernel.ts";
import { claimWorkspace } from "../lang/math.ts";
import type { Index, Pointer, VF, VI } from "../lang/values.ts";
import { type BlockReader, blockReaders, GROUP, type Group, partsOf } from "./blocks.ts";

/** Rows that one call of `blockGemv` takes. */
export const BLOCK_GEMV_ROWS = 4;

/**
 * A group of activations: 32 signed bytes, then eight f32 that are the group's scale times a constant times the sum of
 * four bytes each (what a weight's offset is multiplied with), then the scale.
 */
const RECORD_BYTES = GROUP + 4 * 8 + 4;
const SUMS_AT = GROUP;
const SCALE_AT = GROUP + 4 * 8;

/** Bytes of a quantised row of `n` activations. */
export const quantizedRowBytes = (n: number): number => (n / GROUP) * RECORD_BYTES;

/** Bytes of one thread's workspace in `blockGemv` and `decodeRows`. */
export const BLOCK_WORKSPACE_BYTES = 256;

/** The constant that `quantizeRows` must be given before a product with this type. */
export const sumsFactor = (type: BlockType): number => blockReaders[type].constant;

/** A group of 32 bytes is at least one vector, so 8 lanes of 32 bits are the most; wider units run these as such. */
function defineBlockKernel<const A extends ArgumentTypes>(
  name: string,
  args: A,
  build: (k: Builder, args: Arguments<A>) => void,
): Kernel<A> {
  return defineKernel(name, args, build, { maximumLanes: GROUP / 4 });
}

/** An item is a row. */
export const quantizeRows = defineBlockKernel(
  "quantize_rows",
  {
    /** f32 [rows, 32·groups] */
    a: "f32*",
    /** Elements from row to row. */
    lda: "index",
    groups: "index",
    out: "u8*",
    constant: "f32",
  },
  (k, args) => {
    const vectors = GROUP / k.lanes;
    k.loop({ from: k.begin, to: k.end }, (row) => {
      const from = k.variable(args.a.at(row.mul(args.lda)));
      const to = k.variable(args.out.at(row.mul(args.groups).mul(RECORD_BYTES)));
      k.repeat(args.groups, () => {
        const values = Array.from({ length: vectors }, (_, v) => from.at(v * k.lanes).load());
        const most = values.map((x) => x.abs()).reduce((a, b) => a.max(b));
        // NaN or infinity among them make the scale NaN, and so every product of the row.
        const poison = values
          .reduce((a, b) => a.add(b))
          .sum()
          .mul(0);
        const scale = most
          .maximum()
          .mul(1 / 127)
          .add(poison);
        // Of an empty group the bytes are 0 whatever it is divided by; the least normal number keeps 1/scale finite.
        const inverse = k
          .float(1)
          .div(scale.max(2 ** -120))
          .splat();
        const rounded = values.map((x) => x.mul(inverse).toInt());
        const sums = scale.mul(args.constant).splat();
        for (let part = 0; part < partsOf(k.target); part++) {
          const [a, b, c, d] = rounded.slice(4 * part);
          const bytes = a.packBytes(b, c, d);
          to.atByte(part * 4 * k.lanes)
            .as("i32")
            .store(bytes);
          const four = k.vectorInt(0x01010101).dot(bytes).toFloat();
          to.atByte(SUMS_AT + part * 4 * k.lanes)
            .as("f32")
            .store(four.mul(sums));
        }
        to.atByte(SCALE_AT).as("f32").store(scale);
        from.advance(GROUP);
        to.advanceBytes(RECORD_BYTES);
      });
    });
  },
);

const gemvArgs = {
  /** Rows as `quantizeRows` leaves them. */
  a: "u8*",
  /** Bytes from row to row. */
  aRow: "index",
  w: "u8*",
  /** Bytes from row to row of W, a multiple of its blocks. */
  wRow: "index",
  /** Blocks in a row of W. */
  blocks: "index",
  c: "f32*",
  ldc: "index",
  /** What the sums are added to, as in `gemm`. */
  source: "f32*",
  sourceRow: "index",
  sourceColumn: "index",
  alpha: "f32",
  /** One i32 flag a thread, 0 at first, and `BLOCK_WORKSPACE_BYTES` a thread. */
  slots: "i32*",
  workspace: "u8*",
  /** f32 [65,536]: the value of every half-precision number. */
  halves: "f32*",
} as const;

/** Blocks of one group that are multiplied between two jumps. */
const UNROLL = 4;
/** Rows of W at once, at most; calls take multiples of them (see `fewRowsChunk`). */
const BLOCK_GEMV_COLUMNS = 4;
/** Bytes of scratch memory that reading one row of W takes. */
const READER_BYTES = 64;

/** C [rows, n] = alpha·A·Wᵀ (+ source), W [n, k] in blocks along k. An item is a row of W, a column of C. */
function gemvKernel(type: BlockType, rows: number) {
  const reader = blockReaders[type];
  return defineBlockKernel(`gemv_${type}_${rows}`, gemvArgs, (k, args) => {
    const { slot, release } = claimWorkspace(k, args.slots);
    const scratch = args.workspace.at(slot.mul(BLOCK_WORKSPACE_BYTES)).fixed();
    const { halves } = args;
    // Products and offsets are summed apart, so that neither waits for the other; the order is the same for any number
    // of rows.
    const ways = reader.constant === 0 ? 1 : 2;
    const { aRow, wRow } = args;

    /** `count` rows of W, from `column` on, `apart` rows from one to the next, by all rows of A. */
    const multiply = (column: Index, count: number, apart: Index): void => {
      const stride = wRow.mul(apart);
      const w = k.variable(args.w.at(column.mul(wRow)));
      const a = k.variable(args.a);
      const zeros = () => Array.from({ length: ways }, () => k.variable(k.zero()));
      const sums = Array.from({ length: rows }, () => Array.from({ length: count }, zeros));
      const wRows = () => Array.from({ length: count }, (_, c) => rowOf(w, stride, c));
      const multiplyBlock = (): void => {
        const blocks = wRows().map((place, c) => {
          // A place with an index in its address would be in the way of reading at one.
          const block = c === 0 ? place : place.fixed();
          return reader.read(k, block, { scratch: scratch.atByte(c * READER_BYTES), halves });
        });
        for (let g = 0; g < reader.groups; g++) {
          const records = Array.from({ length: rows }, (_, r) => rowOf(a, aRow, r).atByte(g * RECORD_BYTES));
          const factors = count > 1 ? records.map((record) => record.atByte(SCALE_AT).as("f32").broadcast()) : [];
          blocks.forEach((block, c) => {
            const { bytes, scale, offset = scale } = block.next().value as Group;
            records.forEach((record, r) => {
              const factor = factors[r] ?? record.atByte(SCALE_AT).as("f32").broadcast();
              bytes.forEach((part, p) => {
                const at = p * 4 * k.lanes;
                const activations = record.atByte(at).as("i32").loadInt();
                const products = part.dot(activations, reader.signed).toFloat();
                sums[r][c][0].addProduct(products, factor.mul(scale[p]));
                if (reader.constant === 0) return;
                const bytesSum = record
                  .atByte(SUMS_AT + at)
                  .as("f32")
                  .load();
                sums[r][c][1].addProduct(bytesSum, offset[p]);
              });
            });
          });
        }
        w.advanceBytes(reader.bytes);
        a.advanceBytes(reader.groups * RECORD_BYTES);
      };
      if (reader.groups === 1) {
        k.repeat(args.blocks.sar(Math.log2(UNROLL)), () => {
          for (const row of wRows()) prefetchAhead(row, UNROLL * reader.bytes);
          for (let u = 0; u < UNROLL; u++) multiplyBlock();
        });
        k.repeat(args.blocks.and(UNROLL - 1), multiplyBlock);
      } else {
        k.repeat(args.blocks, () => {
          for (const row of wRows()) prefetchAhead(row, reader.bytes);
          multiplyBlock();
        });
      }

      const to = k.variable(args.c.at(column));
      const source = k.variable(args.source.at(args.sourceColumn.mul(column)));
      const [toStride, sourceStride] = [apart.mul(4), args.sourceColumn.mul(apart).mul(4)];
      for (const row of sums) {
        row.forEach((parts, c) => {
          const total = parts.reduce<VF>((sum, x) => (sum === x ? x : sum.add(x)), parts[0]).sum();
          rowOf(to, toStride, c).store(total.mul(args.alpha).add(rowOf(source, sourceStride, c).loadF32()));
        });
        to.advance(args.ldc);
        source.advanceBytes(args.sourceRow);
      }
    };

    // Rows far apart are streams of their own: the processor's prefetching follows several pages at once. As many as there are
    // registers for.
    const count = rows <= 2 ? BLOCK_GEMV_COLUMNS / rows : 1;
    const column = k.variable(k.begin);
    const rounds = k.end.sub(column).sar(Math.log2(count));
    k.repeat(rounds, () => {
      multiply(column, count, rounds);
      column.increase(1);
    });
    column.increase(rounds.mul(count - 1));
    k.loop({ from: column, to: k.end }, (last) => multiply(last, 1, rounds));
    release();
  });
}

/** How far ahead of what is multiplied weights are asked for. */
const AHEAD_BYTES = 2048;
const LINE_BYTES = 64;

/** Asks for the lines that the next `bytes` of weights will be in: the processor alone asks too late for one core. */
function prefetchAhead(w: Pointer, bytes: number): void {
  for (let at = 0; at < bytes; at += LINE_BYTES) w.atByte(AHEAD_BYTES + at).prefetch(1);
}

/** The place `row` rows on. */
const rowOf = (a: Pointer, stride: Index, row: number): Pointer => {
  if (row === 0) return a;
  return row === 3 ? a.atStride(stride.mul(3), 1) : a.atStride(stride, row as 1 | 2);
};

const decodeArgs = {
  w: "u8*",
  wRow: "index",
  blocks: "index",
  out: "f32*",
  /** Elements from row to row. */
  ldo: "index",
  slots: "i32*",
  workspace: "u8*",
  halves: "f32*",
} as const;

/** Rows of W as f32, each element rounded once. An item is a row. */
function decodeKernel(type: BlockType) {
  const reader = blockReaders[type];
  return defineBlockKernel(`decode_${type}`, decodeArgs, (k, args) => {
    const { slot, release } = claimWorkspace(k, args.slots);
    const scratch = args.workspace.at(slot.mul(BLOCK_WORKSPACE_BYTES)).fixed();
    const halves = args.halves;
    k.loop({ from: k.begin, to: k.end }, (row) => {
      const w = k.variable(args.w.at(row.mul(args.wRow)));
      const out = k.variable(args.out.at(row.mul(args.ldo)));
      k.repeat(args.blocks, () => {
        for (const group of reader.read(k, w, { scratch, halves })) {
          decodeGroup(k, reader, group, scratch.atByte(BLOCK_WORKSPACE_BYTES - GROUP), out);
          out.advance(GROUP);
        }
        w.advanceBytes(reader.bytes);
      });
    });
    release();
  });
}

function decodeGroup(
  k: Builder,
  { signed, halves, constant }: BlockReader,
  { bytes, scale, offset }: Group,
  scratch: Pointer,
  out: Pointer,
): void {
  // Through memory: widening takes bytes from the start of a vector only.
  bytes.forEach((part, p) => {
    scratch
      .atByte(p * 4 * k.lanes)
      .as("i32")
      .store(part);
  });
  const scales = scratch.atByte(-GROUP).as("f32");
  if (halves) {
    scale.forEach((factors, p) => {
      scales.at(p * k.lanes).store(factors);
    });
  }
  for (let i = 0; i < GROUP; i += k.lanes) {
    const part = Math.floor(i / (4 * k.lanes));
    const numbers = scratch
      .atByte(i)
      .as(signed ? "i8" : "u8")
      .loadInt();
    // A lane of the factors belongs to four bytes.
    const factor = halves ? scales.at(i / 4).broadcast() : scale[part];
    if (offset) out.at(i).store(numbers.toFloat().fma(factor, offset[part]));
    else out.at(i).store((constant === 0 ? numbers : numbers.add(constant)).toFloat().mul(factor));
  }
}

const types = Object.keys(BLOCKS) as BlockType[];
const forTypes = <T>(make: (type: BlockType) => T) =>
  Object.fromEntries(types.map((type) => [type, make(type)])) as { readonly [K in BlockType]: T };

/** `blockGemv[type of W][rows − 1]` */
export const blockGemv = forTypes((type) => Array.from({ length: BLOCK_GEMV_ROWS }, (_, i) => gemvKernel(type, i + 1)));
export const decodeRows = forTypes(decodeKernel);

const encodeArgs = {
  /** [rows, 32·blocks] */
  x: "f32*",
  /** Elements from row to row. */
  ldx: "index",
  blocks: "index",
  /** Rows of blocks, one after another. */
  out: "u8*",
  slots: "i32*",
  workspace: "u8*",
} as const;

/** Rounds rows of f32 or bf16 to blocks, the same bytes as `quantized/encode.ts` gives. An item is a row. */
function encodeKernel(type: QuantizableType, element: "f32" | "bf16") {
  const { bytes } = BLOCKS[type];
  const encode = type === "q8_0" ? encodeQ8 : encodeQ4;
  return defineBlockKernel(`encode_${type}_${element}`, encodeArgs, (k, args) => {
    const { slot, release } = claimWorkspace(k, args.slots);
    const scratch = args.workspace.at(slot.mul(BLOCK_WORKSPACE_BYTES)).fixed();
    k.loop({ from: k.begin, to: k.end }, (row) => {
      const from = k.variable(args.x.as(element).at(row.mul(args.ldx)));
      const to = k.variable(args.out.at(row.mul(args.blocks).mul(bytes)));
      k.repeat(args.blocks, () => {
        const values = Array.from({ length: GROUP / k.lanes }, (_, v) => from.at(v * k.lanes).load());
        encode(k, values, to, scratch);
        from.advance(GROUP);
        to.advanceBytes(bytes);
      });
    });
    release();
  });
}

/** Stores a value, held within the halves, and gives what was stored. */
function storeHalf(k: Builder, at: Pointer, value: VF): VF {
  const bits = value.max(-MAX_HALF).min(MAX_HALF).bits();
  const magnitude = bits.and(0x7fffffff);
  const normal = magnitude.sub(0x38000000).add(0xfff).add(magnitude.shr(13).and(1)).shr(13);
  // Below 2⁻¹⁴ halves are multiples of 2⁻²⁴: the last place of numbers from a half to one.
  const small = magnitude.float().add(0.5).bits().sub(0x3f000000);
  const half = magnitude.compare("gt", 0x387fffff).select(normal.float(), small.float()).bits();
  at.as("u16").store(half.or(bits.shr(16).and(0x8000)), k.index(1));
  return at.as("f16").broadcast();
}

/** 1/scale, 0 of 0. */
const inverseOf = (k: Builder, scale: VF): VF => {
  const inverse = k.float(1).splat().div(scale);
  return scale.compare("gt", 0).select(inverse, k.zero());
};

function packed(values: readonly VF[]): VI[] {
  const whole = values.map((x) => x.toInt());
  return Array.from({ length: whole.length / 4 }, (_, p) => {
    const [a, b, c, d] = whole.slice(4 * p);
    return a.packBytes(b, c, d);
  });
}

function encodeQ8(k: Builder, values: readonly VF[], to: Pointer): void {
  const most = values.map((x) => x.abs()).reduce((a, b) => a.max(b));
  const inverse = inverseOf(k, storeHalf(k, to, most.maximum().div(127).splat()));
  const scaled = values.map((x) => x.mul(inverse).max(-127).min(127));
  packed(scaled).forEach((bytes, p) => {
    to.atByte(2 + p * 4 * k.lanes)
      .as("i32")
      .store(bytes);
  });
}

function encodeQ4(k: Builder, values: readonly VF[], to: Pointer, scratch: Pointer): void {
  const most = values.reduce((a, b) => a.max(b)).maximum();
  const negated = values.reduce((a, b) => a.min(b)).neg();
  const least = k.float(0).sub(negated.maximum());
  const inverse = inverseOf(k, storeHalf(k, to, most.sub(least).max(0).div(15).splat()));
  const minimum = storeHalf(k, to.atByte(2), least.splat());
  packed(values.map((x) => x.sub(minimum).mul(inverse).max(0).min(15))).forEach((bytes, p) => {
    scratch
      .atByte(p * 4 * k.lanes)
      .as("i32")
      .store(bytes);
  });
  const halves = [0, 16].map((at) => scratch.atByte(at).broadcastBlock());
  to.atByte(4)
    .as("i32")
    .store(halves[0].or(halves[1].shl(4)), k.index(4));
}

const forElements = (type: QuantizableType) => ({ f32: encodeKernel(type, "f32"), bf16: encodeKernel(type, "bf16") });

/** `encodeRows[type][element of x]` */
export const encodeRows: { readonly [K in QuantizableType]: ReturnType<typeof forElements> } = {
  q8_0: forElements("q8_0"),
  q4_1: forElements("q4_1"),
};
