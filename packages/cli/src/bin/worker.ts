#!/usr/bin/env bun
import { worker } from "../commands/worker.ts";
import { run } from "../run.ts";

await run(worker);
