import type { Answers } from "./answers.ts";
import type { Backend } from "./backend.ts";
import type { ServerConfig } from "./config/schema.ts";
import type { Limits } from "./limits.ts";
import type { Metrics } from "./metrics.ts";
import type { Models } from "./models.ts";

/** What every family of routes works with. */
export interface Service {
  readonly backend: Backend;
  readonly answers: Answers;
  readonly models: Models;
  readonly metrics: Metrics;
  readonly config: ServerConfig;
  readonly limits: Limits;
}
