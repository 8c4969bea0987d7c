// See debug.node.ts; in pages it is off.
export { debug, recordTime } from "#system";
