export {
  type Answer,
  type EndEvent,
  type EventSink,
  LOG_FORMAT,
  RUN_STATUSES,
  type RunEvent,
  type RunStatus,
  runEventSchema,
  type StartEvent,
  type StepEvent,
} from "./events.ts";
export {
  type BeforeAfter,
  beforeAndAfter,
  findRun,
  historyOf,
  listRuns,
  RunError,
  type RunHistory,
  type RunList,
  readEvents,
  readRun,
  settledEvents,
} from "./history.ts";
export { JsonlLog, LOG_FILE } from "./jsonl.ts";
export { selfContainedPage } from "./page/html.ts";
export { LivePage, type LivePageOptions, type PageAction } from "./page/live-page.ts";
export { makeRunFolder, RunRecorder, type RunStart, type StepMeasures } from "./recorder.ts";
export { REPORT_FILE, renderReport, writeReport } from "./report.ts";
export { SMOOTHING, Smoothed } from "./smoothed.ts";
export { TensorBoardLog } from "./tensorboard/log.ts";
