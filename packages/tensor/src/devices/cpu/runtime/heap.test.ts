import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { ALIGNMENT, Heap } from "./heap.ts";

/** A heap over made-up regions with gaps between them. */
function heapOf(regionBytes: number, gap = 4096, regions: number[] = []) {
  let end = 4096;
  return new Heap((bytes) => {
    const region = { address: end, bytes: Math.ceil(Math.max(bytes, regionBytes) / ALIGNMENT) * ALIGNMENT };
    end = region.address + region.bytes + gap;
    regions.push(region.bytes);
    return region;
  });
}

describe("heap", () => {
  test("blocks never overlap, are aligned, and everything joins again", () => {
    const step = fc.record({ bytes: fc.oneof(fc.nat(300), fc.nat(100_000)), free: fc.nat(), keep: fc.boolean() });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 200 }), fc.constantFrom(0, 4096), (steps, gap) => {
        const regions: number[] = [];
        const heap = heapOf(1 << 16, gap, regions);
        const live: { address: number; bytes: number }[] = [];
        for (const { bytes, free, keep } of steps) {
          const address = heap.allocate(bytes);
          expect(address % ALIGNMENT).toBe(0);
          for (const other of live) {
            expect(
              address + Math.max(bytes, 1) <= other.address || other.address + Math.max(other.bytes, 1) <= address,
            ).toBe(true);
          }
          live.push({ address, bytes });
          if (!keep) heap.free(live.splice(free % live.length, 1)[0]!.address);
        }
        for (const { address } of live) heap.free(address);
        const { used, blocks, reserved } = heap.stats();
        expect({ used, blocks }).toEqual({ used: 0, blocks: 0 });
        // All of it can be had again, in one block for each region; regions that touch are one.
        const whole = gap === 0 ? [reserved] : regions.toSorted((a, b) => b - a);
        for (const bytes of whole) if (bytes > 0) heap.allocate(bytes);
        expect(heap.stats()).toMatchObject({ used: reserved, reserved });
      }),
      { numRuns: 100 },
    );
  });

  test("the same shapes again need no more memory", () => {
    const heap = heapOf(1 << 20);
    const round = () => {
      const blocks = [5000, 70_000, 640, 300_000, 64, 5000].map((bytes) => heap.allocate(bytes));
      for (const block of blocks) heap.free(block);
    };
    round();
    const { reserved } = heap.stats();
    for (let i = 0; i < 1000; i++) round();
    expect(heap.stats().reserved).toBe(reserved);
  });

  test("memory that nothing has touched comes last, also where it would fit better", () => {
    const heap = heapOf(1 << 20);
    const touched = heap.allocate(1_000_000);
    const lasting = heap.allocate(200_000);
    heap.free(touched);
    expect(heap.allocate(500_000)).toBe(touched);
    // What is left of it is too small now; the rest of the second region is not.
    expect(heap.allocate(600_000)).toBe(lasting + Math.ceil(200_000 / ALIGNMENT) * ALIGNMENT);
    expect(heap.stats().reserved).toBe(2 << 20);
    // Nor does it lie idle: with the free block in front of it, it is one.
    heap.allocate(500_000 + (1 << 20) - 1_000_000 - 2 * ALIGNMENT);
    expect(heap.stats().reserved).toBe(2 << 20);
  });

  test("freeing twice or elsewhere is an error", () => {
    const heap = heapOf(1 << 16);
    const block = heap.allocate(100);
    heap.free(block);
    expect(() => heap.free(block)).toThrow("no block is in use");
    expect(() => heap.free(12_345)).toThrow("no block is in use");
  });
});
