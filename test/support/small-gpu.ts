/** A GPU with little memory, as WebGPU has it: a buffer that finds no room is made, but invalid, and the error comes later. */

/** Lets all GPU devices of this process hold so many bytes of buffers together. */
export function limitGpuMemory(bytes: number): void {
  const { createBuffer } = GPUDevice.prototype;
  const { destroy } = GPUBuffer.prototype;
  let used = 0;
  const held = new WeakMap<GPUBuffer, number>();
  GPUDevice.prototype.createBuffer = function (descriptor) {
    if (used + descriptor.size <= bytes) {
      const buffer = createBuffer.call(this, descriptor);
      used += descriptor.size;
      held.set(buffer, descriptor.size);
      return buffer;
    }
    // No driver gives an invalid buffer for the asking: this is how one is had, its own error kept back.
    this.pushErrorScope("validation");
    const invalid = createBuffer.call(this, { ...descriptor, usage: 0 });
    void this.popErrorScope();
    const error = new GPUOutOfMemoryError(`no room for ${descriptor.size} bytes`);
    setTimeout(() => this.onuncapturederror?.({ error } as unknown as GPUUncapturedErrorEvent), 0);
    return invalid;
  };
  GPUBuffer.prototype.destroy = function () {
    used -= held.get(this) ?? 0;
    held.delete(this);
    return destroy.call(this);
  };
}
