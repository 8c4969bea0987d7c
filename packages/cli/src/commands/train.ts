import { stat } from "node:fs/promises";
import { resolve } from "node:path";
import { diagnose, readAdapterConfig, saveAdapter, trainingRecord } from "@tslm/lora";
import type { Qwen } from "@tslm/qwen";
import { CommandError } from "../errors.ts";
import { locateModel, openModel } from "../model.ts";
import { chooseSample, RECIPES, repeatRows } from "../recipe.ts";
import { peakMemory } from "../resources.ts";
import type { Context } from "../run.ts";
import { makeAdapter } from "../train/adapter.ts";
import { prepare, readData } from "../train/data.ts";
import { recordOf, settingsOf, trainCommand } from "../train/options.ts";
import { runWithProgress } from "../train/progress.ts";
import { report } from "../train/report.ts";
import { promptFormatOf, putSample } from "../training-data.ts";

/** Longest sample answer. */
const SAMPLE_TOKENS = 100;

/** `train`: from a CSV to an adapter, and the sample question before and after. */
export function train(context: Context) {
  return trainCommand(context).action(async (options) => {
    const { terminal, signal } = context;
    const { out } = options;
    context.kept = `No adapter was written; what ${out} held before is unchanged.`;
    await checkOut(out);
    const examples = await readData(context, options.data);
    const sample = chooseSample(examples);
    const rows = repeatRows(examples, options.repeat ?? [], sample, RECIPES[options.recipe].keyRepeat);
    // Before a gigabyte is loaded.
    if (options.initAdapter !== undefined) await readAdapterConfig(options.initAdapter);

    const open = await openModel(context, await locateModel(context, options.model), options);
    try {
      const { name: device, isa, threads } = open.device.info;
      terminal.say(`Model: ${open.name}, on ${device} (${isa}, ${threads} ${threads === 1 ? "thread" : "threads"})`);
      const prompt = promptFormatOf(examples, open.name);
      const sequences = prepare(context, open.qwen, rows, prompt, options);
      const question = putSample(sample, prompt, open.qwen.tokenizer);

      const lora = await makeAdapter(open.qwen, options);
      const before = await answer(open.qwen, question.ids, signal);
      const { trainable, all } = lora.count();
      terminal.say(lora.summary());
      const settings = settingsOf(options);
      const result = await runWithProgress(context, open.qwen, lora, sequences, settings);
      signal.throwIfAborted();
      const record = trainingRecord({
        base_model: open.name,
        data: { file: options.data, examples: examples.length, sequences: rows.length, tokens: sequences.tokens },
        options: recordOf(options, settings, lora),
        steps: result.steps.map(({ first_grad_norms: _, ...step }) => step),
      });
      await context.whole(async () => {
        await saveAdapter(out, lora, { baseModel: open.name, prompt, record });
        context.kept = `The adapter in ${out} is complete; only the answer after training is missing.`;
      });
      const after = await answer(open.qwen, question.ids, signal);
      const diagnosis = diagnose({
        losses: result.steps.map(({ loss }) => loss),
        samples: [{ prompt: sample.input || sample.instruction, expected: sample.expected, before, after }],
        settings: { recipe: options.recipe, lr: settings.lr, epochs: settings.epochs },
      });

      if (options.json) {
        terminal.json({
          model: { name: open.name, source: open.source, parameters: all, trainable },
          data: { examples: examples.length, sequences: rows.length, tokens: sequences.tokens },
          steps: result.steps,
          tokens_per_second: result.tokens_per_second,
          ...peakMemory(),
          device: { name: device, isa, threads },
          adapter: resolve(out),
          samples: [{ prompt: question.text, before, after }],
          diagnosis,
        });
      } else {
        report(context, { out, result, sample, before, after, diagnosis });
      }
    } finally {
      await open.dispose();
    }
  });
}

/** Says early what would otherwise be said after the training. */
async function checkOut(out: string): Promise<void> {
  const found = await stat(out).catch(() => undefined);
  if (found && !found.isDirectory()) throw new CommandError(`${out} is a file; --out needs the path of a folder`);
}

async function answer(qwen: Qwen, ids: readonly number[], signal: AbortSignal): Promise<string> {
  const { text } = await qwen.complete(ids, { maxNewTokens: SAMPLE_TOKENS, signal });
  signal.throwIfAborted();
  return text;
}
