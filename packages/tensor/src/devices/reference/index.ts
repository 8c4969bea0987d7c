import { BLOCKS, type BlockType, BYTES, type DType, type TypedArray, typedArray } from "../../dtype.ts";
import { DeviceError } from "../../errors.ts";
import type { Storage } from "../../memory.ts";
import type { DeviceInfo, View } from "../device.ts";
import { HostDevice } from "./host-device.ts";

/**
 * Plain loops over typed arrays: the definition of every primitive and the oracle of every test. Computes in double and
 * rounds once to the result's type. Runs wherever JavaScript runs; needs `new Function`.
 */
export class ReferenceDevice extends HostDevice {
  readonly info: DeviceInfo = { name: "reference", isa: "js", threads: 1 };
  readonly dtypes: readonly DType[] = ["f32", "f64", "bf16", "i32", ...(Object.keys(BLOCKS) as BlockType[])];

  allocate(byteLength: number): Uint8Array {
    try {
      return new Uint8Array(byteLength);
    } catch (cause) {
      throw new DeviceError("allocate", `no memory for ${byteLength} bytes`, { cause });
    }
  }
  map(bytes: Uint8Array, elementBytes: number): Uint8Array {
    // A typed array needs its elements aligned; in a file whose header has an odd length they may not be.
    return bytes.byteOffset % elementBytes === 0 ? bytes : bytes.slice();
  }
  free(): void {}
  async dispose(): Promise<void> {}

  protected bytes(storage: Storage): Uint8Array {
    return storage.handle as Uint8Array;
  }
  protected array(view: View): TypedArray {
    const { buffer, byteOffset, byteLength } = view.storage.handle as Uint8Array;
    return typedArray(view.dtype, buffer, byteOffset, Math.floor(byteLength / BYTES[view.dtype]));
  }
}
