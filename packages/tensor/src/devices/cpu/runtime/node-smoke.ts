// Built for Node by runtime.test.ts: the pool on Node's worker threads.
import { Runtime } from "./index.ts";
import { increment, incrementKernel } from "./test-kernels.ts";

const runtime = new Runtime({ emitters: ["avx2", "neon", "wasm"], threads: 3 });
const kernel = runtime.load("increment", incrementKernel(runtime.isa));
const address = runtime.memory.allocate(400_000);
const words = runtime.memory.i32(address, 100_000).fill(0);
for (let i = 0; i < 300; i++) increment(runtime, kernel, address, 100_000, 1000);
console.log(runtime.isa, runtime.threads, words.every((word) => word === 300) ? "ok" : "wrong");
await runtime.dispose();
