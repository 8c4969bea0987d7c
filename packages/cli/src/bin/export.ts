#!/usr/bin/env bun
import { runInThread } from "../thread/run-in-thread.ts";

await runInThread("export");
