import type { TaskName } from "../tasks.ts";

/** A task with its inputs on the device. */
export interface Job {
  /** Computes once and waits until it is done; nothing is read. */
  run(): void | Promise<void>;
  /** What the task computes, for verification: of the MLP the losses of the first steps, from the start. */
  result(): Promise<ArrayLike<number>>;
}

/** A library on one of its devices. */
export interface Contender {
  readonly name: string;
  readonly threads: number | string;
  prepare(task: TaskName): Promise<Job> | Job;
}
