#!/usr/bin/env bun
import { serve } from "../commands/serve.ts";
import { run } from "../run.ts";

await run(serve);
