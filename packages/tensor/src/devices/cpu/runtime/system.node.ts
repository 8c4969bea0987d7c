// What a system with files, an environment and perhaps machine code tells. `#system` is this under Bun and Node, system.none.ts in pages.
export { debug, recordTime } from "../debug.node.ts";
export { defaultThreads } from "./cores.ts";
export { missing } from "./requirements.ts";
