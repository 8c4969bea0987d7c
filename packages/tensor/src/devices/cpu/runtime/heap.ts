// A heap over large regions of memory: two-level segregated fit (Masmano et al., 2004). Blocks are split on the way out
// and joined with free neighbours on the way back, so the memory of one step serves the next, whatever its shapes.
// Only addresses are handled here; the same code serves native memory and a WebAssembly memory.

/** Every block starts and ends on a multiple of this: a cache line, and wider than any vector. */
export const ALIGNMENT = 64;

const SECOND_LEVEL_BITS = 4;
const SECOND_LEVELS = 1 << SECOND_LEVEL_BITS;
const FIRST_LEVELS = 32;

/** Longer blocks have no class; no machine of this kind has so much. */
const LONGEST = 2 ** 38;

/** No memory is left, or a range lies outside what the device owns. */
export class MemoryError extends Error {
  override readonly name = "MemoryError";
}

interface Block {
  address: number;
  bytes: number;
  /** In the free list of its class. */
  free: boolean;
  /** Neighbours in memory within a region. */
  before: Block | undefined;
  after: Block | undefined;
  /** Neighbours in the free list of the block's class. */
  previous: Block | undefined;
  next: Block | undefined;
}

/** A heap's figures, in bytes but for `blocks`. */
export interface HeapStats {
  /** Bytes of blocks in use, rounded up to the alignment. */
  readonly used: number;
  /** The largest `used` so far. */
  readonly peak: number;
  /** Blocks in use. */
  readonly blocks: number;
  /** Bytes of all regions. */
  readonly reserved: number;
}

/** Class of a block: floor(log2(bytes / 64)) and the next four bits below. Blocks are shorter than 2^38 bytes. */
function classOf(bytes: number): number {
  const units = bytes / ALIGNMENT;
  const first = 31 - Math.clz32(units);
  const below =
    first >= SECOND_LEVEL_BITS ? units >>> (first - SECOND_LEVEL_BITS) : units << (SECOND_LEVEL_BITS - first);
  return first * SECOND_LEVELS + (below & (SECOND_LEVELS - 1));
}

export class Heap {
  private readonly grow: (bytes: number) => { address: number; bytes: number };
  private readonly lists: (Block | undefined)[] = new Array(FIRST_LEVELS * SECOND_LEVELS).fill(undefined);
  /** For each first level, a bit for each of its lists that is not empty. */
  private readonly filled = new Uint32Array(FIRST_LEVELS);
  private readonly inUse = new Map<number, Block>();
  /**
   * Ends of regions that nothing has touched, which the system has not had to provide yet. They are in no list: they are used where
   * nothing else fits, so that a round of the same shapes touches no more memory than the one before.
   */
  private readonly fresh: Block[] = [];
  /** Last block of the most recent region, to join a region that begins where it ends. */
  private last: Block | undefined;
  private used = 0;
  private peak = 0;
  private reserved = 0;

  /** @param grow gives a new 64-aligned region of at least the given bytes, or throws when there is none. */
  constructor(grow: (bytes: number) => { address: number; bytes: number }) {
    this.grow = grow;
  }

  /** A block of at least `bytes` bytes, 64-aligned, contents undefined. */
  allocate(bytes: number): number {
    const size = Math.max(1, Math.ceil(bytes / ALIGNMENT)) * ALIGNMENT;
    if (!(size < LONGEST)) throw new MemoryError(`[memory] ${bytes} bytes cannot be had`);
    const block = this.find(size) ?? this.fromFresh(size) ?? this.fromRegion(size);
    if (block.free) {
      this.unlink(block);
      block.free = false;
      if (block.bytes > size) {
        const rest = this.insertAfter(block, block.address + size, block.bytes - size);
        block.bytes = size;
        this.link(rest);
      }
    }
    this.inUse.set(block.address, block);
    this.used += size;
    if (this.used > this.peak) this.peak = this.used;
    return block.address;
  }

  free(address: number): void {
    let block = this.inUse.get(address);
    if (block === undefined) throw new Error(`[heap] free: no block is in use at address ${address}`);
    this.inUse.delete(address);
    this.used -= block.bytes;
    const { before, after } = block;
    if (after?.free) {
      this.unlink(after);
      this.absorb(block, after);
    }
    if (before?.free) {
      this.unlink(before);
      this.absorb(before, block);
      block = before;
    }
    this.link(block);
  }

  stats(): HeapStats {
    return { used: this.used, peak: this.peak, blocks: this.inUse.size, reserved: this.reserved };
  }

  /** The smallest class whose first fitting block is found; only the first class needs a search within. */
  private find(size: number): Block | undefined {
    const { lists, filled } = this;
    const index = classOf(size);
    for (let block = lists[index]; block; block = block.next) if (block.bytes >= size) return block;
    // Every block of a higher class fits.
    let first = index >> SECOND_LEVEL_BITS;
    let bits = filled[first]! & (-2 << (index & (SECOND_LEVELS - 1)));
    while (bits === 0 && ++first < FIRST_LEVELS) bits = filled[first]!;
    return bits === 0 ? undefined : lists[first * SECOND_LEVELS + (31 - Math.clz32(bits & -bits))];
  }

  /** A block in use from the beginning of untouched memory, with the free block in front of it. */
  private fromFresh(size: number): Block | undefined {
    for (const [i, fresh] of this.fresh.entries()) {
      const { before } = fresh;
      const front = before?.free ? before.bytes : 0;
      if (front + fresh.bytes < size) continue;
      if (front > 0) {
        this.unlink(before!);
        fresh.address = before!.address;
        fresh.bytes += front;
        fresh.before = before!.before;
        if (fresh.before) fresh.before.after = fresh;
      }
      if (fresh.bytes > size) this.fresh[i] = this.insertAfter(fresh, fresh.address + size, fresh.bytes - size);
      else this.fresh.splice(i, 1);
      fresh.bytes = size;
      return fresh;
    }
    return undefined;
  }

  private fromRegion(size: number): Block {
    this.addRegion(size);
    return this.fromFresh(size)!;
  }

  private addRegion(bytes: number): void {
    const region = this.grow(bytes);
    this.reserved += region.bytes;
    const { last } = this;
    if (last && last.address + last.bytes === region.address) {
      if (this.fresh.includes(last)) last.bytes += region.bytes;
      else this.fresh.push(this.insertAfter(last, region.address, region.bytes));
      return;
    }
    this.last = { ...region, free: false, before: undefined, after: undefined, previous: undefined, next: undefined };
    this.fresh.push(this.last);
  }

  private insertAfter(block: Block, address: number, bytes: number): Block {
    const { after } = block;
    const inserted: Block = { address, bytes, free: false, before: block, after, previous: undefined, next: undefined };
    block.after = inserted;
    if (after) after.before = inserted;
    if (this.last === block) this.last = inserted;
    return inserted;
  }

  /** Joins `block` with its neighbour `after`. */
  private absorb(block: Block, after: Block): void {
    block.bytes += after.bytes;
    block.after = after.after;
    if (after.after) after.after.before = block;
    if (this.last === after) this.last = block;
  }

  private link(block: Block): void {
    const index = classOf(block.bytes);
    const head = this.lists[index];
    block.free = true;
    block.previous = undefined;
    block.next = head;
    if (head) head.previous = block;
    this.lists[index] = block;
    this.filled[index >> SECOND_LEVEL_BITS]! |= 1 << (index & (SECOND_LEVELS - 1));
  }

  private unlink(block: Block): void {
    const { previous, next } = block;
    if (previous) previous.next = next;
    else {
      const index = classOf(block.bytes);
      this.lists[index] = next;
      if (!next) this.filled[index >> SECOND_LEVEL_BITS]! &= ~(1 << (index & (SECOND_LEVELS - 1)));
    }
    if (next) next.previous = previous;
    block.previous = undefined;
    block.next = undefined;
  }
}
