import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DataError, readExamples } from "../../../packages/data/src/index.ts";
import { allowingLater, type FuzzTarget } from "../target.ts";

let folder: string | undefined;

/** Training data in JSON: a list or lines, of Alpaca rows, messages, ShareGPT's conversations or prompts. */
export const target: FuzzTarget = {
  words: [
    '"instruction":',
    '"input":',
    '"output":',
    '"messages":',
    '"role":',
    '"conversations":',
    '"from":',
    '"prompt":',
  ],
  maxLength: 1024,
  seeds: () => [
    '[{"instruction":"i","input":"x","output":"y","weight":2}]',
    '{"input":"x","output":"y"}\n{"input":"a","output":"b"}\n',
    '{"messages":[{"role":"system","content":"s"},{"role":"user","content":"u"},{"role":"assistant","content":"a"}]}',
    '[{"conversations":[{"from":"human","value":"u"},{"from":"gpt","value":"a"}]}]',
    '{"prompt":"p","completion":"c"}\n\n',
  ],
  async fuzz(data) {
    folder ??= mkdtempSync(join(tmpdir(), "fuzz-jsonl-"));
    const path = join(folder, "data.jsonl");
    writeFileSync(path, data);
    await allowingLater([DataError], () => readExamples(path, { maxCellLength: 1000 }));
  },
};
