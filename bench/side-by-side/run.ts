/** The comparison in Bun: bun run.ts [--budget MS] [--json] */
import { cpus } from "node:os";
import { parseArgs } from "node:util";
import { compare, table } from "./compare.ts";
import { jax } from "./contenders/jax.ts";
import { tfjs } from "./contenders/tfjs.ts";
import { tslm } from "./contenders/tslm.ts";

const { values } = parseArgs({ options: { budget: { type: "string", default: "150" }, json: { type: "boolean" } } });
const threads = Math.max(1, Math.min(2, navigator.hardwareConcurrency));
const contenders = [
  await tslm({ threads }),
  await tslm({ isa: "wasm", threads }),
  await tslm({ isa: "wasm", threads: 1 }),
  await tfjs("wasm", { threads }),
  await tfjs("cpu", { threads }),
  await jax(),
];
const rows = await compare(contenders, Number(values.budget));
console.log(values.json ? JSON.stringify(rows) : `Bun ${Bun.version}, ${cpus()[0].model}\n\n${table(rows)}`);
process.exit(0);
