export { DEFAULT_INSTRUCTION, type Example } from "./alpaca.ts";
export { type Write, writeAtomically } from "./atomic.ts";
export { cleanText } from "./clean.ts";
export type { Conversation, ConversationFormat, Message, Role } from "./conversation.ts";
export {
  type ConvertOptions,
  type ConvertProgress,
  type ConvertReport,
  convertCsv,
  type InstructionOptions,
} from "./convert.ts";
export { type CsvFile, type CsvOptions, type CsvRow, type Delimiter, openCsv } from "./csv/read.ts";
export { formatCsvRow } from "./csv/write.ts";
export { type DetectedEncoding, detectEncoding, type Encoding } from "./encoding.ts";
export { DataError, type DataErrorCode, type DataErrorPlace } from "./error.ts";
export {
  type ExampleFile,
  type ExampleFormat,
  type ExampleRow,
  openExamples,
  type ReadExamplesOptions,
  readExamples,
  streamExamples,
  type TrainingExample,
} from "./examples.ts";
export { type Conflict, type Findings, findTroubles, type Leak, questionKey } from "./findings.ts";
export { type JsonOptions, type JsonRow, readJsonRows } from "./json/read.ts";
export type { Limits } from "./limits.ts";
