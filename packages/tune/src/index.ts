export { type Effect, effects, type Group, lossOf } from "./effects.ts";
export { type HalvingState, type Job, nextJob, rungs } from "./halving.ts";
export { MAX_ARCHIVE_BYTES } from "./queue/archives.ts";
export { QueueError, shownUrl } from "./queue/connection.ts";
export { packFolder, unpackFolder } from "./queue/packed.ts";
export { JobQueue, type QueueAnswer } from "./queue/queue.ts";
export { type WorkOptions, workOn } from "./queue/worker.ts";
export {
  REPORT_FILE,
  renderSearch,
  type SearchReport,
  type SettledResult,
  writeSearchReport,
} from "./report/report.ts";
export { bestOf, compareResults, finalResults, isUsable, resultSchema, type TrialResult } from "./result.ts";
export { type Budget, type Search, search, type TrialJob } from "./search.ts";
export {
  bounds,
  DEFAULT_SPACE,
  DIMENSIONS,
  type Dimension,
  drawsOf,
  formatDimension,
  SEARCHED,
  type Searched,
  type Settings,
  type Space,
  settingsSchema,
  spaceSchema,
} from "./space.ts";
export {
  newState,
  readState,
  type SearchState,
  STATE_FILE,
  searchStateSchema,
  TuneError,
  writeState,
} from "./state.ts";
