import { serverSentEvents } from "../../../apps/server/src/page/client/api.ts";
import { check, type FuzzTarget } from "../target.ts";

async function read(pieces: readonly Uint8Array[]): Promise<string[]> {
  const body = new ReadableStream<Uint8Array<ArrayBuffer>>({
    start(controller) {
      for (const piece of pieces) controller.enqueue(piece.slice());
      controller.close();
    },
  });
  const events: string[] = [];
  for await (const event of serverSentEvents(body)) events.push(event);
  return events;
}

/** Streams of events as the page reads them: alike, wherever the network cuts them. */
export const target: FuzzTarget = {
  words: ["data:", "data: ", "event: ", "id: ", "retry: ", ": ", "\n\n", "\r\n\r\n", "[DONE]", "\ufeff"],
  maxLength: 512,
  seeds: () => [
    'data: {"delta":"你好"}\n\ndata: [DONE]\n\n',
    ": alive\r\n\r\ndata: a\r\ndata: b\r\n\r\n",
    "event: x\rid: 1\rdata\r\rdata:😀\n\n",
  ],
  async fuzz(data) {
    const whole = await read([data]);
    const at = data.length === 0 ? 0 : (data[0] * 7 + data.length) % (data.length + 1);
    const cut = await read([data.subarray(0, at), data.subarray(at, at + 1), data.subarray(at + 1)]);
    check(JSON.stringify(cut) === JSON.stringify(whole), () => `cut at ${at}: ${cut} instead of ${whole}`);
  },
};
