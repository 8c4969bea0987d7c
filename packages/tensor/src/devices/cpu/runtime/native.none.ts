// Node and browsers: no machine code, the WebAssembly tier is used.
import type { NativeHost } from "./host.ts";

export const native: NativeHost | undefined = undefined;
