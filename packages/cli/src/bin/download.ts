#!/usr/bin/env bun
import { download } from "../commands/download.ts";
import { run } from "../run.ts";

await run(download);
