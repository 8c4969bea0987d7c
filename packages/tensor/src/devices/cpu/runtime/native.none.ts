// Node and browsers: no machine code, the WebAssembly tier is used.
import type { NativeHost } from "./host.ts";
import type { probe as probeNative } from "./probe.ts";

export const native: NativeHost | undefined = undefined;
export const probe: typeof probeNative | undefined = undefined;
