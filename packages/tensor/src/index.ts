/// <reference lib="esnext.disposable" preserve="true" />
export { backward, checkpoint, enableGrad, isGradEnabled, noGrad } from "./autograd.ts";
export { arange, full, Generator, ones, rand, randn, tensor, zeros } from "./creation.ts";
export { type CreateDeviceOptions, createDevice, DEVICE_NAMES, type DeviceName } from "./devices/create.ts";
export type {
  AdamWArgs,
  AttentionOptions,
  Device,
  DeviceInfo,
  LinearCrossEntropyArgs,
  MatmulOptions,
  RandomKey,
  ReduceKind,
  RowsKind,
  Segment,
  View,
} from "./devices/device.ts";
export {
  type CpuLimits,
  type CpuPeak,
  measureLimits,
  measurePeak,
  measureWasmLoops,
  type WasmLoops,
} from "./devices/limits.ts";
export { type Call, Profile, type ProfileRow, profiled, profileRows, quietest } from "./devices/profile/index.ts";
export { defaultDevice, reference, setDefaultDevice } from "./devices/registry.ts";
export { BLOCKS, type BlockType, BYTES, type DType, type ElementType, fromBf16, isBlocks, toBf16 } from "./dtype.ts";
export { DeviceError, DTypeError, FormatError, GradientError, ShapeError, TensorError } from "./errors.ts";
export { constant, type Expr, select } from "./expr/expr.ts";
export {
  type GgufEntry,
  GgufFile,
  type GgufTensorInfo,
  type GgufValue,
  openGguf,
  parseGguf,
  serializeGguf,
  writeGguf,
} from "./io/gguf.ts";
export {
  openSafetensors,
  parseSafetensors,
  SafetensorsFile,
  serializeSafetensors,
  type TensorInfo,
  writeSafetensors,
} from "./io/safetensors.ts";
export { fitsBlocks, STORED_TYPES, type StoredType, storedBytes, type TensorSource } from "./io/source.ts";
export { type MemoryCount, memory, resetPeakMemory, scope } from "./memory.ts";
export { Dropout, Embedding, Linear, parameter, RMSNorm, uniform } from "./nn/layers.ts";
export { Module } from "./nn/module.ts";
export { elementwise } from "./ops/elementwise.ts";
export {
  attention,
  cat,
  crossEntropy,
  dropout,
  embedding,
  type LoraParts,
  linear,
  linearCrossEntropy,
  logSoftmax,
  loraLinear,
  matmul,
  mseLoss,
  type OpName,
  registry,
  rmsNorm,
  rope,
  rowsAs,
  softmax,
  stack,
  swiglu,
  where,
} from "./ops/index.ts";
export { apply, Context, defineOp, type Op, type ResultType } from "./ops/op.ts";
export { AdamW, type AdamWOptions } from "./optim/adamw.ts";
export { clipGradNorm } from "./optim/clip.ts";
export { SCHEDULES, type Schedule, type ScheduleName, type ScheduleOptions, schedule } from "./optim/schedule.ts";
export { QUANTIZABLE, type QuantizableType } from "./quantized/encode.ts";
export type { Shape } from "./shape.ts";
export { type Nested, Tensor, type TensorOptions } from "./tensor.ts";
