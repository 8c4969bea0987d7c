// The engine alone, without HTTP, in a process of its own: what the server costs is the difference.
import { Qwen } from "@tslm/qwen";
import { createDevice, setDefaultDevice } from "@tslm/tensor";
import { z } from "zod";
import { type Ask, measure, order } from "./measure.ts";

const { model, quantize, threads, ...asked } = order
  .extend({ model: z.string(), quantize: z.enum(["q8", "q4"]).optional(), threads: z.int().optional() })
  .parse(JSON.parse(process.argv[2]));

setDefaultDevice(await createDevice("cpu", { threads }));
const qwen = await Qwen.load(model, { quantize });

const ask: Ask = async function* (question, tokens) {
  const options = { maxNewTokens: tokens, ignoreEnd: true };
  for await (const { text, usage } of qwen.stream([{ role: "user", content: question }], options)) {
    yield { text, usage };
  }
};

console.log(JSON.stringify(await measure(ask, asked)));
process.exit(0);
