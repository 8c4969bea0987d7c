#!/usr/bin/env bun
import { evaluate } from "../commands/eval.ts";
import { run } from "../run.ts";

await run(evaluate);
