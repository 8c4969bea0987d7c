import { existsSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";

/** Folder of real weights ($QWEN_REAL_MODEL, or where they are usually kept); undefined where there are none. */
export const REAL_MODEL: string | undefined = [process.env.QWEN_REAL_MODEL, join(homedir(), ".cache/qwen-real")]
  .flatMap((dir) => (dir ? [dir, join(dir, "hf")] : []))
  .find((dir) => existsSync(join(dir, "config.json")));
