#!/usr/bin/env bun
import { ask } from "../commands/ask.ts";
import { run } from "../run.ts";

await run(ask);
