/** Products on AMX tiles, on this processor where it has them and on an emulated one, against plain loops and the model. */
import { expect, test } from "bun:test";
import { toBf16 as roundBf16 } from "../../../dtype.ts";
import { amx, type Machine } from "../kernels/testing.ts";
import { multiplyOnTiles, rowsAlone, specialNumbers, tileProducts, tileWorkspace } from "../kernels/tile-products.ts";
import { defineKernel } from "../lang/kernel.ts";
import { AMX } from "../lang/target.ts";
import { multiplyTilesKernel, TILE_SUMS_BYTES } from "../limits.ts";
import { haveTiles } from "./bochs.ts";
import { EmulatedMachine } from "./emulated-machine.ts";
import { ModelledMachine } from "./modelled-machine.ts";

if (!haveTiles) console.warn("SKIPPED: no Bochs with AMX (version 3) is here, so products on tiles are not emulated");
if (!amx) console.warn("SKIPPED: this processor has no AMX, so products on tiles run on the emulator at most");

test.skipIf(!amx)("products on tiles, to the bit as the model of tiles has them", () => {
  for (const check of products(amx!)) check();
});

const narrowKernel = defineKernel("narrow", { x: "i32*", out: "u16*" }, (k, { x, out }) => {
  const [low, high] = [x.loadInt().float(), x.at(k.lanes).loadInt().float()];
  out.as("i32").store(low.narrow(high));
  out.at(2 * k.lanes).store(high.narrow());
});

/** Ties, the border of subnormal numbers, overflow, infinities and NaN among random bits; both forms of the instruction. */
test.skipIf(!amx)("numbers become bf16 as the model says and as PyTorch's do, but for subnormal ones", () => {
  const words = [0x3f808000, 0x3f818000, 0x3f807fff, 0x007fffff, 0x00800000, 0x80000001, 0x7f7fffff, 0x7f800000];
  words.push(0xff800000, 0x7f800001, 0xffc12345, 0, 0x80000000);
  let seed = 1;
  while (words.length < 32) words.push((seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0));
  const results = [amx!, new ModelledMachine(AMX)].map((machine) => {
    const [x, out] = [machine.allocate(128), machine.allocate(96)];
    x.i32.set(words);
    machine.compile(narrowKernel)({ x: x.address, out: out.address });
    return [...out.u16];
  });
  const rounded = words.map((word) => {
    const isSubnormal = (word & 0x7f800000) === 0;
    return isSubnormal ? (word >>> 16) & 0x8000 : roundBf16(new Float32Array(Uint32Array.of(word).buffer)[0]);
  });
  const isNotANumber = (half: number) => (half & 0x7fff) > 0x7f80;
  const plain = (halves: number[]) => halves.map((half) => (isNotANumber(half) ? "NaN" : half));
  expect(results[0]).toEqual(results[1]);
  expect(plain(results[0])).toEqual(plain([...rounded, ...rounded.slice(16)]));
});

/** All in one boot. */
test.skipIf(!haveTiles)(
  "emulated products on tiles, to the bit as the model of tiles has them",
  () => {
    const machine = new EmulatedMachine(AMX);
    const checks = products(machine);
    machine.flush();
    for (const check of checks) check();
  },
  300_000,
);

/** Makes the products on a machine; the checks of what it gave. */
function products(machine: Machine): (() => void)[] {
  const workspace = tileWorkspace(machine);
  const model = new ModelledMachine(AMX);
  const checks = tileProducts().map((product) => {
    const { c, check } = multiplyOnTiles(machine, product, workspace);
    return () => {
      check();
      model.reset();
      expect(c.i32).toEqual(multiplyOnTiles(model, product).c.i32);
    };
  });
  for (const element of ["bf16", "f32"] as const) {
    checks.push(rowsAlone(machine, element, workspace));
    for (const form of ["nt", "nn"] as const) checks.push(specialNumbers(machine, element, form, workspace));
  }
  checks.push(rowsAlone(machine, "bf16", workspace, true));
  for (const form of ["nt", "nn"] as const) checks.push(specialNumbers(machine, "bf16", form, workspace, true));
  const [x, out] = [machine.allocate(1024), machine.allocate(2 * TILE_SUMS_BYTES)];
  x.u16.fill(0x3f80); // 1
  machine.compile(multiplyTilesKernel)({ rounds: 3, x: x.address, out: out.address }, 0, 2);
  checks.push(() => expect(out.f32.every((sum) => sum === 3 * 4 * 32)).toBe(true));
  return checks;
}
