import { stat } from "node:fs/promises";
import { relative, resolve } from "node:path";
import {
  type Changes,
  checkOutcome,
  type Diagnosis,
  dataFingerprint,
  diagnose,
  diagnoseError,
  diagnoseLive,
  isBroken,
  modelFingerprint,
  plannedSteps,
  readAdapterConfig,
  train as runTraining,
  saveAdapter,
  totalSteps,
  trainingRecord,
  type Verdict,
} from "@tslm/lora";
import { CommandError } from "../errors.ts";
import { locateModel, openModel } from "../model.ts";
import { chooseSamples, RECIPES, repeatRows } from "../recipe.ts";
import { peakMemory } from "../resources.ts";
import type { Context } from "../run.ts";
import { shellWord } from "../terminal.ts";
import { makeAdapter } from "../train/adapter.ts";
import { RunCheckpoints, warnOfCheckpoints } from "../train/checkpoints.ts";
import { prepare, readData, sha256Of } from "../train/data.ts";
import { estimateRun, memoryToUse } from "../train/estimate.ts";
import {
  BrokenModelError,
  flagsOf,
  GivenUpError,
  isBetter,
  rejectedFolder,
  type Score,
  scoreOf,
  triesOf,
  withChanges,
} from "../train/fix.ts";
import { FolderLock } from "../train/lock.ts";
import { onAnyDevice } from "../train/lost-device.ts";
import { recordOf, settingsOf, type TrainCommandOptions, trainCommand } from "../train/options.ts";
import { OF_THE_CALL } from "../train/own-options.ts";
import { tell, tellDiagnosis } from "../train/report.ts";
import {
  checkResumedRun,
  decidingOptions,
  type Remembered,
  type ResumedRun,
  rememberedOptions,
  resumedRun,
  runFolderOf,
} from "../train/resume.ts";
import { RUN_FILE, writeRunFile } from "../train/run-file/write.ts";
import { SampleQuestions } from "../train/samples.ts";
import { divideData } from "../train/validation.ts";
import { Watch } from "../train/watch.ts";
import { promptFormatOf } from "../training-data.ts";

/** `train`: from a CSV to an adapter, and the sample questions before and after. */
export function train(context: Context) {
  return trainCommand(context).action(async (given, command) => {
    if (given.init !== undefined) return writeRunFileOf(context, command, given.init === true ? RUN_FILE : given.init);
    if (given.earlyStop !== undefined && given.resume === undefined && !given.validation && !given.validationSplit) {
      command.error("error: option '--early-stop <n>' needs '--validation <file>' or '--validation-split <share>'");
    }
    const { options, resumed } = await resumedRun(context, command, given);
    context.kept = `No adapter was written; what ${options.out} held before is unchanged.`;
    await checkOut(options.out);
    await using _lock = options.estimate ? undefined : await FolderLock.take(context, options.out);
    if (!resumed) await warnOfCheckpoints(context, options.out);
    await trainWithFixes(context, command, options, resumed);
  });
}

/** A run, and with `--fix` those after it, each with what the diagnosis of the one before says is to be changed. */
async function trainWithFixes(
  context: Context,
  command: ReturnType<typeof trainCommand>,
  options: TrainCommandOptions,
  resumed: ResumedRun | undefined,
): Promise<void> {
  const { terminal } = context;
  const tries: { changes: Changes; verdict: Verdict; reasons: string[]; kept: boolean }[] = [];
  let best: Outcome | undefined;
  let changes: Changes = {};
  let current = options;
  for (;;) {
    const [now, from, than] = [current, tries.length === 0 ? resumed : undefined, best];
    let outcome: Outcome | undefined;
    let diagnosis: Diagnosis;
    let failure: unknown;
    try {
      await onAnyDevice(context, command, now, from, (run, goneOnFrom, onSaved) =>
        Watch.follow(context, run, async (watch) => {
          outcome = await fineTune(context, run, watch, goneOnFrom, than?.score, onSaved);
        }),
      );
      if (outcome === undefined) return;
      diagnosis = outcome.diagnosis;
      if (isBroken(diagnosis)) failure = new BrokenModelError(options.out, diagnosis);
    } catch (error) {
      const known = error instanceof GivenUpError ? error.diagnosis : diagnoseError(error, judgedSettings(now));
      if (known === undefined || context.signal.aborted) throw error;
      [diagnosis, failure] = [known, error];
      tellDiagnosis(context, diagnosis);
    }
    const kept = outcome?.saved === true;
    if (kept) best = outcome;
    tries.push({ changes, verdict: diagnosis.verdict, reasons: diagnosis.reasons, kept });
    const left = triesOf(options) - tries.length + 1;
    const next =
      diagnosis.verdict === "learned" || left <= 0 ? undefined : withChanges(command, now, diagnosis.changes);
    if (next === undefined) {
      const told = options.fix === undefined ? {} : { tries };
      if (best === undefined) {
        if (options.json) terminal.json({ ...(outcome?.json ?? { diagnosis }), ...told });
        throw failure;
      }
      if (options.fix !== undefined) terminal.say(summaryOfTries(tries, options.out));
      if (options.json) terminal.json({ ...best.json, ...told });
      return;
    }
    changes = diagnosis.changes;
    current = next;
    terminal.say(`\nTry ${tries.length} of ${triesOf(options)}, with ${flagsOf(changes)}`);
  }
}

/** Which of the tries is in the folder. */
function summaryOfTries(tries: readonly { verdict: Verdict; kept: boolean }[], out: string): string {
  const at = tries.findLastIndex(({ kept }) => kept);
  const which = at === 0 ? "the first run" : `try ${at}`;
  return `${out} has the adapter of ${which} (${tries[at].verdict}), the best of ${tries.length}`;
}

/** What a run came to. */
interface Outcome {
  diagnosis: Diagnosis;
  score: Score;
  /** Its adapter is in the folder. */
  saved: boolean;
  json: object;
}

function judgedSettings(options: TrainCommandOptions) {
  const { lr, epochs } = settingsOf(options);
  return { recipe: options.recipe, lr, epochs, maxLength: options.maxLength };
}

/** `--init`: writes a run file, and says how it is used. */
function writeRunFileOf({ terminal }: Context, command: ReturnType<typeof trainCommand>, file: string): void {
  const own: readonly string[] = OF_THE_CALL;
  const given = command.options.find((option) => {
    const name = option.attributeName();
    return !own.includes(name) && command.getOptionValueSource(name) === "cli";
  });
  if (given)
    command.error(
      `error: --init writes every setting with its default; leave out ${given.long}, and set it in the file`,
    );
  writeRunFile(command, file);
  terminal.say(`${file} holds every setting. Change some, and run:  bun run train --config ${shellWord(file)}`);
}

async function fineTune(
  context: Context,
  options: TrainCommandOptions,
  watch: Watch,
  resumed: ResumedRun | undefined,
  best?: Score,
  onSaved?: (folder: string) => void,
): Promise<Outcome | undefined> {
  const { terminal, signal } = context;
  const { out } = options;
  const examples = await readData(context, options.data);
  const samples = chooseSamples(examples, options.sample);
  const { training, validation } = await divideData(context, examples, samples, options);
  const [sample] = samples;
  const key = { ...sample, row: training.indexOf(examples[sample.row ?? -1]) };
  const rows = repeatRows(training, options.repeat ?? [], key, RECIPES[options.recipe].keyRepeat);
  // Before a gigabyte is loaded.
  if (options.initAdapter !== undefined) await readAdapterConfig(options.initAdapter);

  const open = await openModel(context, await locateModel(context, options.model), options);
  try {
    const { name: device, isa, threads } = open.device.info;
    terminal.say(`Model: ${open.name}, on ${device} (${isa}, ${threads} ${threads === 1 ? "thread" : "threads"})`);
    const { model } = open.qwen;
    const prompt = promptFormatOf(examples, open.name);
    const { sequences, ...report } = prepare(context, open.qwen, rows, prompt, options);
    const heldOut =
      validation.length > 0
        ? prepare(context, open.qwen, validation, prompt, options, "validation sequences").sequences
        : undefined;
    const questions = new SampleQuestions(open.qwen, samples, prompt);

    const runSettings = {
      options: decidingOptions(options),
      base_model: await modelFingerprint(model),
      data: dataFingerprint(sequences),
      validation: heldOut && dataFingerprint(heldOut),
    };
    const settings = settingsOf(options);
    const total = totalSteps(sequences.length, settings);
    if (resumed) checkResumedRun(context, resumed, runSettings, { total, device: open.device.info });
    const lora = await makeAdapter(context, open.qwen, options);
    const planned = { model, lora, sequences, options: settings, signal, validation: heldOut };
    const run = { ...planned, availableMemory: memoryToUse(options) };
    const estimate = await estimateRun(context, { ...run, steps: await plannedSteps(run) }, options);
    if (options.estimate) {
      if (options.json) terminal.json({ estimate });
      return undefined;
    }
    const { trainable, all } = lora.count();
    const record = {
      base_model: open.name,
      data: {
        ...{ file: options.data, sha256: await sha256Of(options.data) },
        ...{ examples: examples.length, sequences: rows.length, tokens: report.tokens },
        ...(heldOut && { validation: validation.length }),
      },
      options: recordOf(options, settings, lora),
    };
    const started = {
      model: { name: open.name, parameters: all, trainable },
      ...{ data: record.data, options: record.options, device: { name: device, isa, threads }, adapter: out },
      total_steps: total,
    };
    if (resumed) await watch.resume(resumed.checkpoint.step, started, runFolderOf(resumed));
    else watch.start(started);
    const before = resumed?.remembered.before ?? (await questions.ask(signal, true));
    if (!resumed) watch.samples(0, before);
    terminal.say(lora.summary());
    const norms = await lora.norms();
    const checkpoints = new RunCheckpoints(context, out, {
      settings: runSettings,
      extra: {
        options: rememberedOptions(options),
        ...{ before, device: { name: device, isa }, run: watch.folder && relative(out, watch.folder) },
      } satisfies Remembered,
      adapter: { baseModel: open.name, prompt },
      saveEvery: options.saveEvery,
      resumed: resumed?.checkpoint,
      onSaved: (folder, step) => {
        watch.checkpoint(step, folder);
        onSaved?.(folder);
      },
    });
    watch.onSave = () => checkpoints.request();
    const judged = judgedSettings(options);
    const losses = resumed?.checkpoint.state.progress.steps.map(({ loss }) => loss) ?? [];
    const result = await runTraining({
      ...run,
      keeper: checkpoints,
      resume: resumed?.checkpoint.state,
      isLearned: options.stopWhenLearned ? () => questions.areAnswered(signal) : undefined,
      onStep: async (step, total) => {
        losses.push(step.loss);
        const answer = await watch.step(step, total, questions);
        return diagnoseLive(losses, judged) ? "give-up" : answer;
      },
    }).finally(() => checkpoints.end());
    watch.trained();
    signal.throwIfAborted();
    await checkOutcome(lora, norms, result.step);
    const { best: bestStep, stopped } = result;
    if (stopped === "hopeless") {
      await checkpoints.remove();
      throw new GivenUpError(result.steps.length, diagnoseLive(losses, judged)!);
    }
    // Until its answers are judged, the run's last checkpoint holds it.
    const after = await questions.ask(signal, true);
    watch.samples(result.steps.length, after);
    const answers = before.map(({ question, expected, answer, entropy }, i) => ({
      ...{ prompt: question, expected, before: answer, after: after[i].answer, ended: after[i].ended },
      ...(entropy !== undefined && { entropy: { before: entropy, after: after[i].entropy! } }),
    }));
    const diagnosis = diagnose({
      losses: result.steps.map(({ loss }) => loss),
      ...{ step: result.step, samples: answers, settings: judged },
      validation: result.steps.flatMap(({ epoch, validation_loss: loss }) =>
        loss === undefined ? [] : [{ epoch, loss }],
      ),
      cut: { count: report.truncated.length, longest: Math.max(0, ...report.truncated.map(({ length }) => length)) },
    });
    const score = scoreOf(diagnosis, answers, losses[losses.length - 1]);
    const isSaved = !isBroken(diagnosis) && isBetter(score, best);
    const folder = isSaved ? out : isBroken(diagnosis) ? rejectedFolder(out) : undefined;
    await context.whole(async () => {
      if (folder !== undefined) {
        const steps = result.steps.map(({ first_grad_norms: _, ...step }) => step);
        const outcome = { ...(bestStep && { best: bestStep }), ...(stopped && { stopped }), step: result.step };
        const measured = { seconds: result.seconds, peak_rss_bytes: peakMemory().peak_rss_bytes };
        const whole = trainingRecord({ ...record, estimate, measured, steps, ...outcome });
        await checkpoints.explaining(() => saveAdapter(folder, lora, { baseModel: open.name, prompt, record: whole }));
      }
      if (isSaved) context.kept = `The adapter in ${out} is complete; only the report is missing.`;
      if (!options.saveEvery && stopped !== "asked") await checkpoints.remove();
    });
    const reportFile = await watch.end(stopped === "asked" ? "stopped" : "done", diagnosis);

    if (!options.json) tell(context, { out, folder, result, total, samples: answers, diagnosis, reportFile });
    const json = {
      model: { name: open.name, source: open.source, parameters: all, trainable },
      data: record.data,
      steps: result.steps,
      tokens_per_second: result.tokens_per_second,
      seconds: result.seconds,
      estimate,
      ...peakMemory(),
      device: { name: device, isa, threads },
      adapter: isBroken(diagnosis) ? null : resolve(out),
      ...(isBroken(diagnosis) && { rejected_adapter: resolve(rejectedFolder(out)) }),
      adapter_step: result.step,
      ...(bestStep && { best: bestStep }),
      ...(stopped && { stopped }),
      ...(resumed && { resumed_from: resumed.checkpoint.step }),
      run: watch.folder && resolve(watch.folder),
      samples: answers.map(({ before, after, entropy }, i) => ({
        ...{ prompt: questions.prompts[i].text, before, after, entropy },
      })),
      diagnosis,
    };
    return { diagnosis, score, saved: isSaved, json };
  } finally {
    await open.dispose();
  }
}

/** Says early what would otherwise be said after the training. */
async function checkOut(out: string): Promise<void> {
  const found = await stat(out).catch(() => undefined);
  if (found && !found.isDirectory()) throw new CommandError(`${out} is a file; --out needs the path of a folder`);
}
