/** Every instruction form over random operands against GNU as, byte by byte. */
import { expect, test } from "bun:test";
import { Label } from "./label.ts";
import { assemble, haveAs } from "./testing.ts";
import {
  ARITHMETIC,
  type ArithmeticName,
  Assembler,
  CONDITION,
  type ConditionName,
  type Memory,
  type Operand,
  SHIFT,
  type ShiftName,
} from "./x64.ts";
import { type EvexEncoding, type EvexName, evexInstructions } from "./x64-evex-table.ts";
import { type Encoding, instructions, type VexName } from "./x64-table.ts";

/** Deterministic numbers, so that a failure can be repeated. */
let state = 0x2545f491;
function random(n: number): number {
  state ^= state << 13;
  state ^= state >>> 17;
  state ^= state << 5;
  return (state >>> 0) % n;
}

function randomMemory(): Memory {
  const disp = [0, 0, 1, -1, 127, 128, -128, -129, 4096, 0x7ffffff0, -0x7ffffff0][random(11)];
  let index: number | undefined = random(2) ? random(16) : undefined;
  if (index === 4) index = 5;
  return { base: random(16), index, scale: index === undefined ? undefined : ([1, 2, 4, 8] as const)[random(4)], disp };
}

const hex = (bytes: Uint8Array): string => [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join(" ");

/** Runs `emit` many times and compares each instruction with what `as` makes of its listing line. */
function compare(count: number, emit: (asm: Assembler, i: number) => void): void {
  const pieces: { line: string; bytes: Uint8Array }[] = [];
  for (let i = 0; i < count; i++) {
    const asm = new Assembler({ listing: true });
    emit(asm, i);
    pieces.push({ line: asm.listing.join("\n"), bytes: asm.finish() });
  }
  // A NOP of 8 bytes after each keeps one wrong length from shifting all the rest.
  const expected = assemble(pieces.map(({ line }) => line));
  let at = 0;
  for (const { line, bytes } of pieces) {
    expect(`${line}: ${hex(bytes)}`).toBe(`${line}: ${hex(expected.subarray(at, at + bytes.length))}`);
    at += bytes.length;
  }
  expect(at).toBe(expected.length);
}

function randomOperands(e: Encoding): Operand[] {
  const operands: Operand[] = [];
  for (let i = 0; i < e.classes.length; i++) {
    const memory = e.form[i] === "m" && (e.only === "mem" || (e.only !== "reg" && random(2) === 0));
    operands.push(memory ? randomMemory() : random(16));
  }
  return operands;
}

test.skipIf(!haveAs)("every VEX instruction equals GNU as", () => {
  const names = Object.keys(instructions) as VexName[];
  expect(names.length).toBeGreaterThan(80);
  compare(names.length * 40, (asm, i) => {
    const name = names[i % names.length];
    const e: Encoding = instructions[name];
    // vcmpps' assembler accepts predicates below 32 only.
    const immediate = e.form.includes("i") ? random(name === "vcmpps" ? 32 : 8) : undefined;
    asm.vex(name, e.lengths[random(e.lengths.length)], randomOperands(e), immediate);
  });
});

test.skipIf(!haveAs)("every EVEX instruction equals GNU as", () => {
  const names = Object.keys(evexInstructions) as EvexName[];
  expect(names.length).toBeGreaterThan(50);
  compare(names.length * 60, (asm, i) => {
    const name = names[i % names.length];
    const e: EvexEncoding = evexInstructions[name];
    const length = e.lengths[random(e.lengths.length)];
    const operands: Operand[] = [];
    for (let place = 0; place < e.classes.length; place++) {
      const memory = e.form[place] === "m" && (e.only === "mem" || (e.only !== "reg" && random(2) === 0));
      if (memory) {
        const disp = [0, 4, 16, 32, 64, -64, 128, -128, 8128, 8192, 100, -0x7ffffff0][random(12)];
        operands.push({ ...randomMemory(), disp, broadcast: e.broadcast && random(2) === 0 });
      } else operands.push(random(e.classes[place] === "k" ? 8 : e.classes[place] === "g" ? 16 : 32));
    }
    // Masks where lanes are: not on moves between register files, nor on the 128-bit pieces.
    const masked =
      e.lengths.length > 1 && e.form !== "mri" && !e.classes.includes("g") && !name.startsWith("vbroadcastf");
    const toMask = e.classes[0] === "k" || e.form === "mr";
    const mask = masked ? random(8) : 0;
    const zero = mask > 0 && !toMask && random(2) === 0;
    asm.evex(name, length, operands, { mask, zero, immediate: e.form.includes("i") ? random(4) : undefined });
  });
});

test.skipIf(!haveAs)("the instructions on tiles equal GNU as", () => {
  const strided = (): Memory => {
    const memory = randomMemory();
    return { ...memory, index: memory.index ?? 9, scale: 1 };
  };
  // Three different tiles: the same one twice is an invalid instruction.
  const forms: ((asm: Assembler) => void)[] = [
    (asm) => asm.loadTileConfiguration(randomMemory()),
    (asm) => asm.releaseTiles(),
    (asm) => asm.zeroTile(random(8)),
    (asm) => asm.loadTile(random(8), strided()),
    (asm) => asm.streamTile(random(8), strided()),
    (asm) => asm.storeTile(strided(), random(8)),
    (asm) => asm.multiplyTiles(random(3), 3 + random(2), 5 + random(3)),
  ];
  compare(forms.length * 40, (asm, i) => forms[i % forms.length](asm));
});

test.skipIf(!haveAs)("the instructions on masks equal GNU as", () => {
  compare(200, (asm, i) => {
    if (i % 4 === 0) asm.maskMove("mask", random(8), random(16));
    else if (i % 4 === 1) asm.maskMove("general", random(16), random(8));
    else if (i % 4 === 2) asm.maskCopy(random(8), random(8));
    else asm.maskLogic((["kandw", "kandnw", "korw", "kxorw"] as const)[random(4)], random(8), random(8), random(8));
  });
});

test.skipIf(!haveAs)("the instructions on general registers equal GNU as", () => {
  const values = [0, 1, -1, 127, 128, -128, -129, 0x7fffffff, -0x80000000];
  const register = () => random(16);
  const size = () => (random(2) ? 64 : 32) as 32 | 64;
  const width = () => ([1, 2, 4, 8] as const)[random(4)];
  const operand = (): Operand => (random(2) ? register() : randomMemory());
  const name = <T extends string>(names: Record<T, number>): T => {
    const all = Object.keys(names) as T[];
    return all[random(all.length)];
  };
  const forms: ((asm: Assembler) => void)[] = [
    (asm) => asm.move(register(), register(), size()),
    (asm) => asm.moveImmediate(register(), values[random(values.length)]),
    (asm) => asm.moveImmediate(register(), [0xffffffff, 0x123456789abc, -0x123456789abc, 0x80000000][random(4)]),
    (asm) => asm.load(register(), randomMemory(), width(), random(2) === 0),
    (asm) => asm.store(randomMemory(), register(), width()),
    (asm) => asm.exchange(randomMemory(), register()),
    (asm) => asm.lea(register(), randomMemory()),
    (asm) => asm.arithmetic(name<ArithmeticName>(ARITHMETIC), register(), operand(), size()),
    (asm) =>
      asm.arithmeticImmediate(name<ArithmeticName>(ARITHMETIC), register(), values[random(values.length)], size()),
    (asm) => asm.multiply(register(), operand(), size()),
    (asm) => asm.multiplyImmediate(register(), register(), values[random(values.length)], size()),
    (asm) => asm.shiftImmediate(name<ShiftName>(SHIFT), register(), 1 + random(31), size()),
    (asm) => asm.negate(register(), size()),
    (asm) => asm.extend32(register(), register()),
    (asm) => asm.conditionalMove(name<ConditionName>(CONDITION), register(), register(), size()),
    (asm) => asm.push(register()),
    (asm) => asm.pop(register()),
    (asm) => asm.ret(),
    (asm) => asm.vzeroupper(),
    (asm) => asm.prefetch((["nta", "t0", "t1"] as const)[random(3)], randomMemory()),
  ];
  compare(forms.length * 60, (asm, i) => forms[i % forms.length](asm));
});

test.skipIf(!haveAs)("jumps, alignment and the constant pool equal GNU as", () => {
  const asm = new Assembler({ listing: true });
  const start = new Label("start");
  const end = new Label("end");
  const far = new Label("first");
  asm.bind(far);
  for (const padding of [1, 3, 9]) {
    for (let i = 0; i < padding; i++) asm.vex("vaddps", 256, [1, 2, 3]);
    asm.jump("l", far);
  }
  asm.bind(start);
  for (let i = 0; i < 40; i++) asm.vex("vfmadd231ps", 256, [1, 2, { base: 9, disp: i }]);
  asm.jump("ne", start);
  asm.jump("always", far);
  asm.jump("ge", end);
  for (let i = 0; i < 40; i++) asm.vex("vfmadd231ps", 256, [1, 2, { base: 9, disp: i }]);
  asm.bind(end);
  asm.ret();
  expect(hex(asm.finish())).toBe(hex(assemble(asm.listing)));
});

test("a constant is stored once and read relative to the instruction's end", () => {
  const asm = new Assembler();
  const one = new Uint8Array(32).fill(1);
  expect(asm.constant(one)).toBe(asm.constant(new Uint8Array(32).fill(1)));
  asm.vex("vpermq", 256, [1, { label: asm.constant(one) }], 0);
  const code = asm.finish();
  const at = code.length - 32;
  expect(at % 32).toBe(0);
  // displacement + end of the instruction (9 bytes + immediate) is the constant's place
  const end = 10;
  expect(new DataView(code.buffer).getInt32(5, true) + end).toBe(at);
});

test("wrong operands are refused", () => {
  const asm = new Assembler();
  expect(() => asm.vex("vaddps", 256, [1, { base: 0 }, 2])).toThrow("takes no memory as operand 1");
  expect(() => asm.vex("vmovss", 0, [1, 2])).toThrow("needs mem");
  expect(() => asm.vex("vpermq", 128, [1, 2], 0)).toThrow("no 128-bit form");
  expect(() => asm.lea(1, { base: 1, index: 4 })).toThrow("rsp cannot be an index");
  expect(() => asm.arithmeticImmediate("add", 1, 2 ** 40)).toThrow("does not fit");
  asm.jump("always", new Label("nowhere"));
  expect(() => asm.finish()).toThrow("nowhere");
});
