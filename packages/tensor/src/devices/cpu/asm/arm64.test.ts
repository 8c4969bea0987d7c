/** Every instruction form over random operands against GNU as for arm64, byte by byte. */
import { expect, test } from "bun:test";
import { Assembler, CONDITION, type ConditionName, type Memory, PLDL1KEEP, PLDL2KEEP } from "./arm64.ts";
import {
  type MemoryEncoding,
  type MemoryName,
  memoryInstructions,
  type VectorEncoding,
  type VectorName,
  vectorInstructions,
} from "./arm64-table.ts";
import { Label } from "./label.ts";
import { assembleArm64 as assemble, haveArm64As as haveAs } from "./testing.ts";

/** Deterministic numbers, so that a failure can be repeated. */
let state = 0x2545f491;
function random(n: number): number {
  state ^= state << 13;
  state ^= state >>> 17;
  state ^= state << 5;
  return (state >>> 0) % n;
}
const pick = <T>(all: readonly T[]): T => all[random(all.length)];

const words = (bytes: Uint8Array): string[] =>
  Array.from(new Uint32Array(bytes.slice().buffer), (word) => word.toString(16).padStart(8, "0"));

/** Runs `emit` many times and compares each word with what `as` makes of its line of the listing. */
function compare(count: number, emit: (asm: Assembler, i: number) => void): void {
  const asm = new Assembler({ listing: true });
  for (let i = 0; i < count; i++) emit(asm, i);
  const mine = words(asm.finish());
  const expected = words(assemble(asm.listing));
  expect(mine.length).toBe(asm.listing.length);
  expect(expected.length).toBe(mine.length);
  expect(mine.map((word, i) => `${asm.listing[i]}: ${word}`)).toEqual(
    expected.map((word, i) => `${asm.listing[i]}: ${word}`),
  );
}

const register = (): number => random(31);
const conditions = Object.keys(CONDITION) as ConditionName[];

test.skipIf(!haveAs)("every vector instruction equals GNU as", () => {
  const names = Object.keys(vectorInstructions) as VectorName[];
  expect(names.length).toBeGreaterThan(70);
  compare(names.length * 40, (asm, i) => {
    const name = names[i % names.length];
    const { text, immediate }: VectorEncoding = vectorInstructions[name];
    const has = (key: string): number => (text.includes(`{${key}}`) ? random(32) : 0);
    const general = name === "dup_w" || name === "scvtf_s";
    const value =
      immediate === undefined
        ? 0
        : immediate === "condition"
          ? CONDITION[pick(conditions)]
          : immediate === "element32"
            ? random(4)
            : immediate === "byte"
              ? random(16)
              : // Left shifts begin at 0, right shifts at 1.
                (immediate.startsWith("right") ? 1 : 0) + random(immediate.endsWith("8") ? 8 : 32);
    asm.vector(name, has("d"), general ? register() : has("n"), has("m"), value, has("a"));
  });
});

test.skipIf(!haveAs)("loads and stores equal GNU as", () => {
  const names = Object.keys(memoryInstructions) as MemoryName[];
  compare(names.length * 60, (asm, i) => {
    const name = names[i % names.length];
    const { bytes, register: kind }: MemoryEncoding = memoryInstructions[name];
    const place: Memory = pick([
      { base: random(32), disp: pick([0, 1, 5, 4095]) * bytes },
      { base: random(32), disp: pick([-256, -1, 255, 3]) },
      { base: random(32), index: register() },
      { base: random(32), index: register(), shift: Math.log2(bytes) },
    ]);
    const data =
      kind === "x" || kind === "w" ? register() : kind === "prefetch" ? pick([PLDL1KEEP, PLDL2KEEP]) : random(32);
    asm.memory(name, data, place);
  });
  compare(400, (asm) => {
    const bytes = pick([1, 2, 4] as const);
    asm.lane(pick(["ld1", "st1"]), random(32), random(16 / bytes), bytes, random(32));
  });
  compare(40, (asm) => asm.loadAll(random(32), random(32)));
  compare(40, (asm) => asm.loadExclusive(random(31), random(32)));
  compare(40, (asm) => {
    const status = random(8);
    asm.storeExclusive(status, 8 + random(8), 16 + random(16));
  });
});

test("a place out of reach is refused", () => {
  expect(Assembler.reaches({ base: 0, disp: 16 * 4095 }, 16)).toBe(true);
  expect(Assembler.reaches({ base: 0, disp: 16 * 4096 }, 16)).toBe(false);
  expect(Assembler.reaches({ base: 0, disp: -257 }, 16)).toBe(false);
  expect(Assembler.reaches({ base: 0, index: 1, shift: 2 }, 16)).toBe(false);
  expect(() => new Assembler().memory("ldr_q", 0, { base: 0, disp: 257 })).toThrow("cannot reach");
});

test.skipIf(!haveAs)("the instructions on general registers equal GNU as", () => {
  const additions = [0, 1, 4095, 4096, 0x123456, 0xffffff, -1, -4095, -0x123456];
  const forms: ((asm: Assembler) => void)[] = [
    (asm) => asm.move(register(), register()),
    (asm) => asm.arithmetic(pick(["add", "sub"]), register(), register(), register(), random(5)),
    (asm) => asm.compare(register(), register()),
    (asm) => asm.addImmediate(random(32), random(32), pick(additions)),
    (asm) => asm.compareImmediate(register(), pick([0, 1, 4095, -1, -4095])),
    (asm) => asm.logic(pick(["and", "orr", "eor"]), register(), register(), register()),
    (asm) => asm.shiftImmediate(pick(["lsl", "lsr", "asr"]), register(), register(), 1 + random(63)),
    (asm) => asm.multiply(register(), register(), register()),
    (asm) => asm.negate(register(), register()),
    (asm) => asm.extend32(register(), register()),
    (asm) => asm.select(pick(conditions), register(), register(), register()),
    (asm) => asm.vectorMove(random(32), random(32)),
    (asm) => asm.ret(),
  ];
  compare(forms.length * 60, (asm, i) => forms[i % forms.length](asm));
});

test.skipIf(!haveAs)("masks in logical instructions equal GNU as; others are refused", () => {
  const asm = new Assembler({ listing: true });
  const runs = [-4, -8, -16, 1, 3, 7, 0xff, 0xf0, 0x7fffffff, -0x80000000, 0xffff0000ffff, 2 ** 52, -2];
  for (const value of runs) {
    for (const name of ["and", "orr", "eor"] as const) {
      expect(asm.logicImmediate(name, register(), register(), value)).toBe(true);
    }
  }
  expect(words(asm.finish())).toEqual(words(assemble(asm.listing)));
  for (const value of [0, -1, 5, 0x1234, 0xff00ff01]) expect(asm.logicImmediate("and", 0, 0, value)).toBe(false);
});

test.skipIf(!haveAs)("constants equal GNU as", () => {
  const asm = new Assembler({ listing: true });
  const safe = Number.MAX_SAFE_INTEGER;
  const integers = [0, 1, -1, 65535, 65536, -65536, -65537, 0x12345678, -0x12345678, safe, -safe, 2 ** 48];
  for (const value of integers) asm.moveImmediate(register(), value);
  const bits = (x: number): number => new Int32Array(Float32Array.of(x).buffer)[0];
  const lanes = [0, 1, 255, 0x7f00, 0xab0000, -0x80000000, -1, ~0x1200, 0x0f0f0f0f];
  for (const word of [...lanes, ...[1, -1, 0.5, 2, 0.25, 31, -1.75].map(bits)]) {
    expect(asm.moveLanes(random(32), word)).toBe(true);
  }
  for (const word of [bits(0.1), 0x12345678, bits(33), 0x00ff00ff]) expect(asm.moveLanes(0, word)).toBe(false);
  expect(words(asm.finish())).toEqual(words(assemble(asm.listing)));
});

test.skipIf(!haveAs)("jumps, alignment and the constant pool equal GNU as", () => {
  const asm = new Assembler({ listing: true });
  const [start, end] = [new Label("start"), new Label("end")];
  asm.branch("always", end);
  asm.vectorMove(1, 2);
  asm.align(16);
  asm.bind(start);
  for (const condition of conditions) asm.branch(condition, start);
  for (const condition of conditions) asm.branch(condition, end);
  for (const size of [32, 64] as const) {
    asm.branchZero(true, register(), start, size);
    asm.branchZero(false, register(), end, size);
  }
  asm.branch("always", start);
  asm.bind(end);
  const constants = [1, 2, 1].map((value) => asm.constant(new Uint8Array(16).fill(value)));
  expect(constants[2]).toBe(constants[0]);
  for (const constant of constants) asm.loadConstant(random(32), constant);
  expect(words(asm.finish())).toEqual(words(assemble(asm.listing)));
});

test("a label that is never bound is an error", () => {
  const asm = new Assembler();
  asm.branch("always", new Label("nowhere"));
  expect(() => asm.finish()).toThrow("nowhere");
});
