import {
  DTypeError,
  FormatError,
  parseSafetensors,
  reference,
  serializeSafetensors,
  tensor,
} from "../../../packages/tensor/src/index.ts";
import { allowing, check, type FuzzTarget } from "../target.ts";

/** Files of weights and adapters. What the header says must lie within the file, and be as long as its shape. */
export const target: FuzzTarget = {
  words: [
    "F32",
    "BF16",
    "F16",
    "I64",
    "BOOL",
    "F4",
    "dtype",
    "shape",
    "data_offsets",
    "__metadata__",
    '{"a":',
    "[0,8]",
  ],
  async seeds() {
    const f32 = tensor([[1, 2]]);
    const bf16 = tensor([1, 2, 3, 4]).to("bf16");
    return [
      await serializeSafetensors(new Map([["a", f32]]), { format: "pt" }),
      await serializeSafetensors(
        new Map([
          ["a", f32],
          ["b", bf16],
        ]),
      ),
      await serializeSafetensors(new Map()),
    ];
  },
  fuzz(data) {
    const file = allowing([FormatError], () => parseSafetensors(data));
    for (const name of file?.names() ?? []) {
      const { byteLength, offset } = file!.info(name);
      check(offset + byteLength <= data.length, () => `${name} reaches beyond the file`);
      check(file!.bytes(name).length === byteLength, () => `${name} has other bytes than its header says`);
      allowing([DTypeError], () => file!.tensor(name, { device: reference }))?.dispose();
    }
  },
};
