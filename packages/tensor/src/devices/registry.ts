import { DeviceError } from "../errors.ts";
import type { Device } from "./device.ts";
import { ReferenceDevice } from "./reference/index.ts";

/** The device that needs nothing but JavaScript. */
export const reference: Device = new ReferenceDevice();

let current: Device = reference;

/** The device of tensors that are made without naming one: `reference` until set. */
export function defaultDevice(): Device {
  return current;
}

/** Makes later tensors on `device`; living ones stay where they are. */
export function setDefaultDevice(device: Device): void {
  current = device;
}

/** @throws DeviceError unless all tensors of an operation live on one device */
export function commonDevice(op: string, tensors: readonly { device: Device }[]): Device {
  const device = tensors[0]?.device ?? current;
  for (const { device: other } of tensors) {
    if (other !== device)
      throw new DeviceError(op, `tensors on two devices: ${device.info.name} and ${other.info.name}`);
  }
  return device;
}
