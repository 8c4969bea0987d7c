/** From the page to the worker. */
export interface Start {
  device: string;
  rate: number;
  epochs: number;
}
export type Order = { kind: "start"; run: Start } | { kind: "stop" };

/** From the worker to the page. */
export type News =
  | { kind: "device"; name: string; isa: string; threads: number }
  | { kind: "step"; step: number; steps: number; loss: number; imagesPerSecond: number }
  | { kind: "epoch"; step: number; accuracy: number; samples: { pixels: Uint8Array; digit: number; read: number }[] }
  | { kind: "end"; stopped: boolean }
  | { kind: "failed"; message: string };
