export { ask } from "./commands/ask.ts";
export { data } from "./commands/data.ts";
export { download } from "./commands/download.ts";
export { evaluate } from "./commands/eval.ts";
export { serve } from "./commands/serve.ts";
export { train } from "./commands/train.ts";
export { type Context, run } from "./run.ts";
