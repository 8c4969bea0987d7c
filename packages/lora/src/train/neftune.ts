import { cat, type RandomKey, rand, type Tensor } from "@tslm/tensor";
import type { PlacedPass } from "./pass.ts";

/**
 * NEFTune (Jain et al., 2023): uniform noise within ±α/√(L·d) on the embeddings of a sequence of L rows and d features.
 * A sequence's noise comes from the key and its number in the step, so it does not depend on how sequences are batched.
 *
 * @param key with the stream of the step's first sequence
 */
export function neftune(
  { rows, segments }: Pick<PlacedPass, "rows" | "segments">,
  alpha: number,
  key: RandomKey,
): (embeddings: Tensor) => Tensor {
  return (embeddings) => {
    const { device, dtype } = embeddings;
    const features = embeddings.shape[1];
    const noise = segments.map(({ query, queries }) => {
      const stream = (key.stream + rows[2 * query]) >>> 0;
      const size = alpha / Math.sqrt(queries * features);
      return rand([queries, features], { ...key, stream }, { device, dtype })
        .sub(0.5)
        .mul(2 * size);
    });
    return embeddings.add(cat(noise));
  };
}
