// The live page's thread: the one that trains computes for seconds without a pause, in which no request would be answered.
import { parentPort, workerData } from "node:worker_threads";
import { createPageApp } from "./app.ts";
import { type Listening, listen } from "./listen.ts";
import type { FromPage, PageThreadOptions, ToPage } from "./protocol.ts";

const port = parentPort!;
const send = (message: FromPage): void => port.postMessage(message);
const app = createPageApp((action) => send({ kind: "action", action }));

let listening: Listening | undefined;
try {
  listening = listen(app.fetch, (workerData as PageThreadOptions).port);
  send({ kind: "listening", url: listening.url });
} catch (error) {
  send({ kind: "failed", message: (error as Error).message });
}

port.on("message", async (message: ToPage) => {
  if (message.kind === "event") {
    app.publish(message.event);
    return;
  }
  await app.close();
  await listening?.stop();
  port.close();
});
