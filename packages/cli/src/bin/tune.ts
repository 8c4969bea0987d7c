#!/usr/bin/env bun
import { tune } from "../commands/tune.ts";
import { run } from "../run.ts";

await run(tune);
