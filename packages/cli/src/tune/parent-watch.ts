// A thread that ends its process when the parent has gone: stdin is a pipe that only the parent holds open. The other threads
// may be computing for seconds without a pause.
import { readSync } from "node:fs";

const buffer = new Uint8Array(1);
for (;;) {
  try {
    if (readSync(0, buffer) === 0) break;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EAGAIN") break;
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 200);
  }
}
process.kill(process.pid, "SIGKILL");
