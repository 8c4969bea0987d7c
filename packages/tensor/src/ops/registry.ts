import { activationOps } from "./activations.ts";
import { diagonalOps } from "./diagonal.ts";
import { elementwiseOps } from "./elementwise.ts";
import { embeddingOps } from "./embedding.ts";
import { indexingOps } from "./indexing.ts";
import { loraOps } from "./lora.ts";
import { lossOps } from "./loss.ts";
import { mathOps } from "./math.ts";
import { matmulOps } from "./matmul.ts";
import { modelOps } from "./model.ts";
import { poolOps } from "./pool.ts";
import { reduceOps } from "./reduce.ts";
import { scanOps } from "./scan.ts";
import { shapeOps } from "./shape.ts";
import { softmaxOps } from "./softmax.ts";
import { sortOps } from "./sort.ts";
import { statisticsOps } from "./statistics.ts";
import { windowOps } from "./windows.ts";

/** Every op by name: what the generated gradient checks and the device conformance suite go through. */
export const registry = {
  ...elementwiseOps,
  ...mathOps,
  ...activationOps,
  ...lossOps,
  ...reduceOps,
  ...statisticsOps,
  ...softmaxOps,
  ...scanOps,
  ...sortOps,
  ...shapeOps,
  ...windowOps,
  ...poolOps,
  ...diagonalOps,
  ...indexingOps,
  ...matmulOps,
  ...loraOps,
  ...embeddingOps,
  ...modelOps,
} as const;

/** Names of all ops; tables keyed by it must have every op. */
export type OpName = keyof typeof registry;
