#!/usr/bin/env bun
import { data } from "../commands/data.ts";
import { run } from "../run.ts";

await run(data);
