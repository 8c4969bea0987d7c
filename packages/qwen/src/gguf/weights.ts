import { type Device, type GgufFile, isBlocks, scope, type Tensor } from "@tslm/tensor";
import type { ModelConfig } from "../config.ts";
import { ModelFileError } from "../errors.ts";
import { parameterShapes } from "../model/parameters.ts";
import { nextTurn } from "../turn.ts";
import { ggufName } from "./names.ts";

/** Problems told in an error's message; a wrong config makes every tensor one. */
const MAX_TOLD = 40;
/** Of old conversions: computed anew here. */
const IGNORED = /^(rope_freqs|blk\.\d+\.attn_rot_embd)\.weight$/;

/** What loading calls after each tensor, and how it is stopped. */
export interface Loading {
  readonly signal?: AbortSignal;
  readonly onProgress?: (loaded: number, total: number) => void;
}

/**
 * The parameters of a model by transformers' names, mapped from a GGUF file: matrices as they lie, in blocks, biases and
 * norms as f32.
 *
 * @throws ModelFileError naming every missing, unexpected and mis-shaped tensor
 */
export async function ggufWeights(
  file: GgufFile,
  config: ModelConfig,
  device: Device,
  { signal, onProgress }: Loading = {},
): Promise<Map<string, Tensor>> {
  const shapes = parameterShapes(config);
  checkTensors(file, config);
  const tensors = new Map<string, Tensor>();
  try {
    for (const name of shapes.keys()) {
      // The event loop gets its turn, so that a signal can come.
      await nextTurn();
      signal?.throwIfAborted();
      const read = (): Tensor => {
        const t = file.tensor(ggufName(name), { device });
        return t.rank === 1 && t.dtype === "bf16" ? t.to("f32") : t;
      };
      const t = scope(read).keep();
      tensors.set(name, t);
      if (t.rank === 1 && isBlocks(t.dtype)) {
        throw new ModelFileError(
          file.file,
          `${ggufName(name)} is ${t.dtype}; biases and norms must be F32, F16 or BF16`,
        );
      }
      onProgress?.(tensors.size, shapes.size);
    }
    return tensors;
  } catch (error) {
    for (const t of tensors.values()) t.dispose();
    throw error;
  }
}

function checkTensors(file: GgufFile, config: ModelConfig): void {
  const problems: string[] = [];
  const expected = new Set<string>();
  for (const [name, shape] of parameterShapes(config)) {
    const stored = ggufName(name);
    expected.add(stored);
    if (!file.has(stored)) problems.push(`missing ${stored}`);
    else if (file.info(stored).shape.join() !== shape.join()) {
      problems.push(`${stored} is [${file.info(stored).shape}], not [${shape}]`);
    }
  }
  for (const name of file.names()) if (!expected.has(name) && !IGNORED.test(name)) problems.push(`unexpected ${name}`);
  if (problems.length === 0) return;
  const more = problems.length > MAX_TOLD ? `; and ${problems.length - MAX_TOLD} more` : "";
  const told = problems.slice(0, MAX_TOLD).join("; ");
  throw new ModelFileError(file.file, `its tensors do not fit its metadata: ${told}${more}`);
}
