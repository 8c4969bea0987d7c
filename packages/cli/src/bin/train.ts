#!/usr/bin/env bun
import { train } from "../commands/train.ts";
import { run } from "../run.ts";

await run(train);
