#!/usr/bin/env bun
/** Writes `train.schema.json` anew: `bun packages/cli/src/train/run-file/make-schema.ts`. */
import { writeFileSync } from "node:fs";
import { NOTHING_WRITTEN } from "../../run.ts";
import { Terminal } from "../../terminal.ts";
import { trainCommand } from "../options.ts";
import { runFileJsonSchema } from "./schema.ts";
import { SCHEMA_FILE } from "./write.ts";

const { signal } = new AbortController();
const command = trainCommand({ signal, terminal: new Terminal(), kept: NOTHING_WRITTEN, whole: (work) => work() });
writeFileSync(SCHEMA_FILE, `${JSON.stringify(runFileJsonSchema(command), null, 2)}\n`);
