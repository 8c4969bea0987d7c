import { elementwiseOps } from "./elementwise.ts";
import { embeddingOps } from "./embedding.ts";
import { loraOps } from "./lora.ts";
import { matmulOps } from "./matmul.ts";
import { modelOps } from "./model.ts";
import { reduceOps } from "./reduce.ts";
import { shapeOps } from "./shape.ts";

export * from "./elementwise.ts";
export * from "./embedding.ts";
export { type LoraParts, loraLinear } from "./lora.ts";
export * from "./loss.ts";
export { linear, matmul } from "./matmul.ts";
export * from "./model.ts";
export * from "./reduce.ts";
export { rowsAs } from "./rows.ts";
export * from "./shape.ts";

/** Every op by name: what the generated gradient checks and the device conformance suite go through. */
export const registry = {
  ...elementwiseOps,
  ...reduceOps,
  ...shapeOps,
  ...matmulOps,
  ...loraOps,
  ...embeddingOps,
  ...modelOps,
} as const;

/** Names of all ops; tables keyed by it must have every op. */
export type OpName = keyof typeof registry;
