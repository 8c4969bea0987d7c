// The comparison in a page; chromium.ts calls it.
import { compare, table } from "./compare.ts";
import { jax } from "./contenders/jax.ts";
import { tfjs } from "./contenders/tfjs.ts";
import { tslm } from "./contenders/tslm.ts";

async function run(budget: number): Promise<string> {
  const threads = crossOriginIsolated ? Math.max(1, Math.min(2, navigator.hardwareConcurrency)) : 1;
  const contenders = [
    await tslm({ threads }),
    ...(threads > 1 ? [await tslm({ threads: 1 })] : []),
    await tfjs("wasm", { files: "/", threads }),
    await tfjs("cpu", { threads }),
    await jax(),
  ];
  return table(await compare(contenders, budget));
}
Object.assign(globalThis, { run });
