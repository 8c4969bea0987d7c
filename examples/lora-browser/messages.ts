/** A question and what is to be answered. */
export interface Row {
  input: string;
  output: string;
}

/** From the page to the worker. */
export type Order =
  | { kind: "load"; device: string }
  | { kind: "ask"; question: string }
  | { kind: "train"; rows: Row[]; question: string; epochs: number; rate: number };

/** The best next tokens after a prompt, as `bun run eval` tells them. */
export interface Scores {
  prompt: string;
  top: (readonly [id: number, logit: number])[];
  logsumexp: number;
}

/** From the worker to the page. */
export type News =
  | { kind: "loaded"; name: string; isa: string; threads: number; parameters: number }
  | { kind: "answer"; text: string }
  | { kind: "step"; step: number; steps: number; loss: number; tokensPerSecond: number }
  | { kind: "adapter"; files: Record<string, Uint8Array>; trainable: number; scores: Scores; answer: string }
  | { kind: "failed"; message: string };
