import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { summaryEvent, versionEvent } from "./event.ts";
import { TensorBoardLog } from "./log.ts";
import { maskedCrc32c, tfRecord } from "./record.ts";

const folder = mkdtempSync(join(tmpdir(), "tensorboard-"));
afterAll(() => rmSync(folder, { recursive: true }));

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex");

test("checksums are CRC-32C (RFC 3720, B.4), rotated and shifted as TensorFlow does", () => {
  // crc32c of 32 zeros is 0x8a9136aa.
  const crc = 0x8a9136aa;
  const rotated = ((crc >>> 15) | (crc << 17)) >>> 0;
  expect(maskedCrc32c(new Uint8Array(32))).toBe((rotated + 0xa282ead8) >>> 0);
});

// As TensorBoard 2.21 writes them itself: `Event(…).SerializeToString()` and `RecordWriter.write`.
test("the bytes of an event and of a record", () => {
  const version = "09000000000000f83f1a0d627261696e2e4576656e743a32";
  expect(hex(versionEvent(1.5))).toBe(version);
  expect(hex(summaryEvent(1.5, 7, [{ tag: "train/loss", value: 0.25 }]))).toBe(
    "09000000000000f83f10072a130a110a0a747261696e2f6c6f7373150000803e",
  );
  expect(hex(tfRecord(versionEvent(1.5)))).toBe(`1800000000000000a37f4b22${version}2a28646c`);
});

test("a file for each process, named so that TensorBoard finds it, with the version first", () => {
  const log = new TensorBoardLog(folder, 1_700_000_000_123);
  log.close();
  expect(log.path).toMatch(/events\.out\.tfevents\.1700000000\.[^/]+\.\d+\.\d+$/);
  expect(hex(readFileSync(log.path))).toBe(hex(tfRecord(versionEvent(1_700_000_000.123))));
});
