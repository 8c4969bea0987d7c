import { availableParallelism } from "node:os";
import { shownUrl, workOn } from "@tslm/tune";
import { baseCommand, integer, notEmpty, option } from "../options.ts";
import { duration } from "../progress.ts";
import type { Context } from "../run.ts";
import { runQueuedTrial } from "../tune/queued-trial.ts";

/** `worker`: takes trials of `tune --queue` from a queue and trains them, until it is stopped. */
export function worker(context: Context) {
  return baseCommand(
    context,
    "worker",
    "Train trials of  bun run tune --queue  on this machine, until it is stopped.",
    [
      ["bun run worker --queue redis://localhost:6379", "of a queue on this machine"],
      ["bun run worker --queue rediss://:PASSWORD@HOST:6379 --model models/qwen", "with the base model that lies here"],
    ],
  )
    .addOption(option("--queue <url>", "Redis or Valkey in which the trials are", notEmpty).makeOptionMandatory())
    .addOption(option("--model <name|dir>", "the base model on this machine (default: the search's)", notEmpty))
    .addOption(option("--threads <n>", "threads of a training (default: all cores)", integer(1, 1024)))
    .addOption(
      option(
        "--lock-seconds <n>",
        "after so long without a sign of life its trial goes to another worker",
        integer(2, 3600),
      ).default(30),
    )
    .action(async ({ queue, model, threads = availableParallelism(), lockSeconds }) => {
      const { terminal, signal } = context;
      context.kept = "The trial that was under way goes to another worker.";
      await workOn({
        ...{ url: queue, lockSeconds, signal },
        onReady: () => terminal.say(`Waiting for trials from ${shownUrl(queue)}; Ctrl-C ends it.`),
        onLost: (sentence) => terminal.warn(sentence),
        onBack: (sentence) => terminal.say(sentence),
        async handle(payload, archive) {
          let name = "";
          const onTrial = ({
            job: { trial, epochs, settings },
          }: {
            job: { trial: number; epochs: number; settings: { rank: number; lr: number } };
          }): void => {
            name = `Trial ${trial + 1}`;
            terminal.say(`${name}: rank ${settings.rank}, rate ${settings.lr}, ${epochs} epochs`);
          };
          const started = performance.now();
          try {
            const answer = await runQueuedTrial(payload, archive, { threads, model, onTrial }, signal);
            terminal.say(`${name}: done in ${duration((performance.now() - started) / 1000)}`);
            return answer;
          } catch (error) {
            if (!signal.aborted) terminal.warn(`${name}: ${(error as Error).message}`);
            throw error;
          }
        },
      });
    });
}
