import {
  DTypeError,
  FormatError,
  parseNpz,
  reference,
  serializeNpz,
  tensor,
} from "../../../packages/tensor/src/index.ts";
import { allowingLater, check, type FuzzTarget } from "../target.ts";

/** NumPy's archives: what is unpacked is bounded by what is packed. */
export const target: FuzzTarget = {
  words: ["PK\x01\x02", "PK\x03\x04", "PK\x05\x06", "PK\x06\x06", "PK\x06\x07", ".npy"],
  async seeds() {
    const arrays = new Map([
      ["a", tensor([1, 2])],
      ["b", tensor([[1], [2]])],
    ]);
    return [
      await serializeNpz(arrays),
      await serializeNpz(arrays, { compress: true }),
      await serializeNpz(new Map([["zeros", tensor(new Array(2000).fill(0))]]), { compress: true }),
    ];
  },
  async fuzz(data) {
    const arrays = await allowingLater([FormatError, DTypeError], () => parseNpz(data, { device: reference }));
    for (const array of arrays?.values() ?? []) {
      check(array.size <= 1100 * data.length + 64, () => `${array.size} elements out of ${data.length} bytes`);
      array.dispose();
    }
  },
};
