import { z } from "zod";

/** The format of `log.jsonl`; it rises when a reader of the old one would misread the new one. */
export const LOG_FORMAT = 1;

/** ISO 8601. */
const time = z.iso.datetime();
const step = z.int().min(0);

const answer = z.object({
  question: z.string(),
  /** The answer of the training data, where it holds one. */
  expected: z.string().optional(),
  answer: z.string(),
  /** Mean entropy of its tokens, in nats. */
  entropy: z.number().optional(),
});

const start = z.object({
  event: z.literal("start"),
  time,
  format: z.literal(LOG_FORMAT, {
    error: ({ input }) =>
      `is ${JSON.stringify(input)}; this program reads format ${LOG_FORMAT}, a newer one may read it`,
  }),
  /** The run's name: its folder's. */
  id: z.string(),
  /** The process that trains, and its computer: whether a run without an end still goes on. */
  pid: z.int(),
  host: z.string(),
  model: z.object({ name: z.string(), parameters: z.int().optional(), trainable: z.int().optional() }),
  data: z.object({
    file: z.string(),
    examples: z.int().optional(),
    sequences: z.int().optional(),
    tokens: z.int().optional(),
  }),
  /** Settings by their names on the command line. */
  options: z.record(z.string(), z.unknown()),
  device: z.object({ name: z.string(), isa: z.string(), threads: z.int() }),
  machine: z.object({ cpu: z.string(), cores: z.int(), memory_bytes: z.number(), system: z.string() }),
  /** The adapter's folder. */
  adapter: z.string(),
  total_steps: z.int(),
});

/** The run goes on after this step, which it had saved; what it had done beyond it is done again. */
const resume = z.object({ event: z.literal("resume"), time, step, pid: z.int(), host: z.string() });

const stepEvent = z.object({
  event: z.literal("step"),
  time,
  step,
  epoch: z.int(),
  /** Mean over the step's predicted tokens. */
  loss: z.number(),
  /** {@link Smoothed} of the losses so far. */
  smoothed_loss: z.number(),
  /** Share of the predicted tokens that were the likeliest one. */
  token_accuracy: z.number().optional(),
  /** Global L2 norm of the gradient before clipping. */
  grad_norm: z.number(),
  lr: z.number(),
  /** Tokens of the step's sequences. */
  tokens: z.int(),
  seconds: z.number(),
  /** Of the whole run so far, without the time of samples and saves. */
  tokens_per_second: z.number(),
  /** Resident memory of the process after the step, mapped weights included. */
  memory_bytes: z.number(),
});

const validation = z.object({
  event: z.literal("validation"),
  time,
  /** After this step. */
  step,
  loss: z.number(),
  token_accuracy: z.number().optional(),
});

/** The sample questions' answers: step 0 is before training. */
const samples = z.object({ event: z.literal("samples"), time, step, answers: z.array(answer) });

const checkpoint = z.object({ event: z.literal("checkpoint"), time, step, folder: z.string() });

export const RUN_STATUSES = ["done", "stopped", "interrupted", "failed"] as const;

const end = z.object({
  event: z.literal("end"),
  time,
  /** stopped: ended early and saved, because someone asked for it. */
  status: z.enum(RUN_STATUSES),
  /** What went wrong, where it failed. */
  error: z.string().optional(),
  seconds: z.number(),
  peak_rss_bytes: z.number(),
  diagnosis: z.object({ verdict: z.string(), reasons: z.array(z.string()), advice: z.array(z.string()) }).optional(),
});

/** A line of `log.jsonl`. Fields that are not known are passed over. */
export const runEventSchema = z.discriminatedUnion("event", [
  start,
  resume,
  stepEvent,
  validation,
  samples,
  checkpoint,
  end,
]);

export type RunEvent = z.output<typeof runEventSchema>;
export type EventOf<Name extends RunEvent["event"]> = Extract<RunEvent, { event: Name }>;
export type StartEvent = EventOf<"start">;
export type StepEvent = EventOf<"step">;
export type EndEvent = EventOf<"end">;
export type RunStatus = (typeof RUN_STATUSES)[number];
/** A sample question, the answer that the data holds, and the model's. */
export type Answer = z.output<typeof answer>;

/** Takes a run's events as they happen. */
export interface EventSink {
  write(event: RunEvent): void;
  /** No more will come. */
  close(): void | Promise<void>;
}
