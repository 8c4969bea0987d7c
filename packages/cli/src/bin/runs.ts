#!/usr/bin/env bun
import { runs } from "../commands/runs.ts";
import { run } from "../run.ts";

await run(runs);
