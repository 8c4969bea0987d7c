import { crc32c } from "@aws-crypto/crc32c";

/** Added to a rotated checksum, so that the checksum of data that holds checksums is no trivial one. */
const MASK_DELTA = 0xa282ead8;

/** The checksum of TensorFlow's record files: CRC-32C, rotated right by 15 bits, plus a constant. */
export function maskedCrc32c(bytes: Uint8Array): number {
  const crc = crc32c(bytes);
  return (((crc >>> 15) | (crc << 17)) + MASK_DELTA) >>> 0;
}

/**
 * A record of a TFRecord file (TensorFlow's `RecordWriter`): the length as u64, its checksum, the data and its checksum, all
 * little-endian.
 */
export function tfRecord(data: Uint8Array): Uint8Array {
  const record = new Uint8Array(12 + data.length + 4);
  const view = new DataView(record.buffer);
  view.setBigUint64(0, BigInt(data.length), true);
  view.setUint32(8, maskedCrc32c(record.subarray(0, 8)), true);
  record.set(data, 12);
  view.setUint32(12 + data.length, maskedCrc32c(data), true);
  return record;
}
