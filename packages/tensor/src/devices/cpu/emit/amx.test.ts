/** Products on AMX tiles, on this processor where it has them and on an emulated one, against plain loops and the model. */
import { expect, test } from "bun:test";
import { amx, type Machine } from "../kernels/testing.ts";
import { multiplyOnTiles, rowsAlone, specialNumbers, tileProducts, tileWorkspace } from "../kernels/tile-products.ts";
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
