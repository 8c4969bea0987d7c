// Browsers: no files; safetensors are read from bytes and written to bytes.
import type { FileSystem } from "./files.ts";

export const files: FileSystem | undefined = undefined;
