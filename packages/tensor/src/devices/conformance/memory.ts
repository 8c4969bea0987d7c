import { expect } from "bun:test";
import { DeviceError } from "../../errors.ts";
import { IDENTITY } from "../../expr/program.ts";
import { Storage } from "../../memory.ts";
import type { Device, View } from "../device.ts";
import { type DeviceTest, numbers } from "./harness.ts";

function dense(storage: Storage, n: number): View {
  return { storage, dtype: "f32", offset: 0, shape: [n], strides: [1] };
}

/** A copy of a view's elements, made by the device. */
async function copyOf(device: Device, view: View): Promise<Float32Array> {
  const n = view.shape[0];
  const out = Storage.allocate(device, 4 * n);
  device.elementwise(IDENTITY, [], [view], dense(out, n));
  view.storage.release();
  const bytes = await device.read(out, 0, 4 * n);
  out.release();
  return new Float32Array(bytes.slice().buffer);
}

export const memoryTests: readonly DeviceTest[] = [
  {
    name: "memory: holds f32, bf16 and i32",
    async run({ device }) {
      for (const dtype of ["f32", "bf16", "i32"] as const) expect(device.dtypes).toContain(dtype);
    },
  },
  {
    name: "memory: bytes written are read back, at any place",
    async run({ device }) {
      const random = numbers(1);
      for (const length of [0, 1, 3, 64, 1001, 70_000]) {
        const bytes = Uint8Array.from({ length }, () => 256 * random());
        const storage = Storage.allocate(device, length);
        device.write(storage, 0, bytes);
        const part = bytes.slice(Math.floor(length / 3), Math.floor(length / 2));
        device.write(storage, 0, new Uint8Array(Math.floor(length / 4)));
        device.write(storage, 0, bytes.slice(0, Math.floor(length / 4)));
        expect(await device.read(storage, 0, length)).toEqual(bytes);
        expect(await device.read(storage, Math.floor(length / 3), part.length)).toEqual(part);
        storage.release();
      }
    },
  },
  {
    name: "memory: what was read does not change later, nor what was written from",
    async run({ device }) {
      const storage = Storage.allocate(device, 4);
      const bytes = Uint8Array.of(1, 2, 3, 4);
      device.write(storage, 0, bytes);
      bytes.fill(9);
      const first = await device.read(storage, 0, 4);
      device.write(storage, 0, bytes);
      expect([...first]).toEqual([1, 2, 3, 4]);
      storage.release();
    },
  },
  {
    name: "memory: freed in order, after the calls that use it",
    async run({ device }) {
      let storage = Storage.allocate(device, 4000);
      device.write(storage, 0, new Uint8Array(Float32Array.from({ length: 1000 }, (_, i) => i).buffer));
      for (let step = 0; step < 50; step++) {
        const next = Storage.allocate(device, 4000);
        device.elementwise(IDENTITY, [], [dense(storage, 1000)], dense(next, 1000));
        storage.release();
        storage = next;
      }
      const bytes = await device.read(storage, 0, 4000);
      storage.release();
      expect([...new Float32Array(bytes.slice().buffer)]).toEqual(Array.from({ length: 1000 }, (_, i) => i));
    },
  },
  {
    name: "memory: mapped bytes are read, short or long, aligned or not, from their middle too",
    async run({ device }) {
      for (const n of [3, 2000]) {
        for (const lead of [0, 4, 8, 1, 2]) {
          const source = new Uint8Array(lead + 4 * n + 4);
          const numbers = Float32Array.from({ length: n }, (_, i) => i - n / 2);
          source.set(new Uint8Array(numbers.buffer), lead);
          const whole = Storage.map(device, source.subarray(lead, lead + 4 * n), 4);
          expect(await copyOf(device, dense(whole, n))).toEqual(numbers);
          const again = Storage.map(device, source.subarray(lead, lead + 4 * n), 4);
          expect(await copyOf(device, { ...dense(again, n - 2), offset: 2 })).toEqual(numbers.subarray(2));
        }
      }
    },
  },
  {
    name: "memory: more than there is gives a DeviceError",
    async run({ device }) {
      expect(() => device.allocate(2 ** 50)).toThrow(DeviceError);
      await device.synchronize();
    },
  },
];
