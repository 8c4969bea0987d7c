import { stat } from "node:fs/promises";
import { resolve } from "node:path";
import { diagnose, readAdapterConfig, train as runTraining, saveAdapter, totalSteps, trainingRecord } from "@tslm/lora";
import { CommandError } from "../errors.ts";
import { locateModel, openModel } from "../model.ts";
import { chooseSamples, RECIPES, repeatRows } from "../recipe.ts";
import { peakMemory } from "../resources.ts";
import type { Context } from "../run.ts";
import { makeAdapter } from "../train/adapter.ts";
import { prepare, readData } from "../train/data.ts";
import { recordOf, settingsOf, type TrainCommandOptions, trainCommand } from "../train/options.ts";
import { tell } from "../train/report.ts";
import { SampleQuestions } from "../train/samples.ts";
import { Watch } from "../train/watch.ts";
import { promptFormatOf } from "../training-data.ts";

/** `train`: from a CSV to an adapter, and the sample questions before and after. */
export function train(context: Context) {
  return trainCommand(context).action(async (options) => {
    context.kept = `No adapter was written; what ${options.out} held before is unchanged.`;
    await checkOut(options.out);
    await Watch.follow(context, options, (watch) => fineTune(context, options, watch));
  });
}

async function fineTune(context: Context, options: TrainCommandOptions, watch: Watch): Promise<void> {
  const { terminal, signal } = context;
  const { out } = options;
  const examples = await readData(context, options.data);
  const samples = chooseSamples(examples, options.sample);
  const rows = repeatRows(examples, options.repeat ?? [], samples[0], RECIPES[options.recipe].keyRepeat);
  // Before a gigabyte is loaded.
  if (options.initAdapter !== undefined) await readAdapterConfig(options.initAdapter);

  const open = await openModel(context, await locateModel(context, options.model), options);
  try {
    const { name: device, isa, threads } = open.device.info;
    terminal.say(`Model: ${open.name}, on ${device} (${isa}, ${threads} ${threads === 1 ? "thread" : "threads"})`);
    const { model } = open.qwen;
    const prompt = promptFormatOf(examples, open.name);
    const { sequences, ...report } = prepare(context, open.qwen, rows, prompt, options);
    const questions = new SampleQuestions(open.qwen, samples, prompt);

    const lora = await makeAdapter(open.qwen, options);
    const { trainable, all } = lora.count();
    const settings = settingsOf(options);
    const record = {
      base_model: open.name,
      data: { file: options.data, examples: examples.length, sequences: rows.length, tokens: report.tokens },
      options: recordOf(options, settings, lora),
    };
    watch.start({
      model: { name: open.name, parameters: all, trainable },
      ...{ data: record.data, options: record.options, device: { name: device, isa, threads }, adapter: out },
      total_steps: totalSteps(sequences.length, settings),
    });
    const before = await questions.ask(lora, signal);
    watch.samples(0, before);
    terminal.say(lora.summary());
    const result = await runTraining({
      ...{ model, lora, sequences, options: settings, signal },
      onStep: (step, total) => watch.step(step, total, questions, lora),
    });
    watch.trained();
    signal.throwIfAborted();
    await context.whole(async () => {
      const steps = result.steps.map(({ first_grad_norms: _, ...step }) => step);
      await saveAdapter(out, lora, { baseModel: open.name, prompt, record: trainingRecord({ ...record, steps }) });
      context.kept = `The adapter in ${out} is complete; only the answers after training are missing.`;
    });
    const after = await questions.ask(lora, signal);
    watch.samples(result.steps.length, after);
    const answers = before.map(({ question, expected, answer }, i) => ({
      ...{ prompt: question, expected, before: answer, after: after[i].answer },
    }));
    const diagnosis = diagnose({
      losses: result.steps.map(({ loss }) => loss),
      samples: answers,
      settings: { recipe: options.recipe, lr: settings.lr, epochs: settings.epochs },
    });
    const reportFile = await watch.end(result.stopped === "asked" ? "stopped" : "done", diagnosis);

    if (options.json) {
      terminal.json({
        model: { name: open.name, source: open.source, parameters: all, trainable },
        data: record.data,
        steps: result.steps,
        tokens_per_second: result.tokens_per_second,
        ...peakMemory(),
        device: { name: device, isa, threads },
        adapter: resolve(out),
        run: watch.folder && resolve(watch.folder),
        samples: answers.map(({ before, after }, i) => ({ prompt: questions.prompts[i].text, before, after })),
        diagnosis,
      });
    } else {
      tell(context, { out, result, samples: answers, diagnosis, reportFile });
    }
  } finally {
    await open.dispose();
  }
}

/** Says early what would otherwise be said after the training. */
async function checkOut(out: string): Promise<void> {
  const found = await stat(out).catch(() => undefined);
  if (found && !found.isDirectory()) throw new CommandError(`${out} is a file; --out needs the path of a folder`);
}
