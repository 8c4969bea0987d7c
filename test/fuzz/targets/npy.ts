import {
  DTypeError,
  FormatError,
  parseNpy,
  reference,
  serializeNpy,
  tensor,
} from "../../../packages/tensor/src/index.ts";
import { allowing, check, type FuzzTarget } from "../target.ts";

/** NumPy's files of one array. */
export const target: FuzzTarget = {
  words: ["'descr'", "'fortran_order'", "'shape'", "True", "False", "<f4", ">i8", "|b1", "(2, 3)", "()", "(0,)"],
  maxLength: 512,
  async seeds() {
    return [
      await serializeNpy(tensor([[1, 2, 3]])),
      await serializeNpy(tensor([1, 2], { dtype: "i32" })),
      await serializeNpy(tensor(5)),
      `\x93NUMPY\x01\0\x3a\0{'descr': '>f2', 'fortran_order': True, 'shape': (1, 2)}\n\0<\0@`,
    ].map((seed) => (typeof seed === "string" ? Uint8Array.from(seed, (char) => char.charCodeAt(0)) : seed));
  },
  fuzz(data) {
    const array = allowing([FormatError, DTypeError], () => parseNpy(data, { device: reference }));
    if (!array) return;
    check(array.size <= data.length, () => `${array.size} elements out of ${data.length} bytes`);
    array.dispose();
  },
};
