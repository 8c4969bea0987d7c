import { stat } from "node:fs/promises";
import { resolve } from "node:path";
import { Option } from "@commander-js/extra-typings";
import { convertCsv, openExamples, type TrainingExample } from "@tslm/data";
import {
  applyLora,
  type Diagnosis,
  diagnose,
  LOSS_MASKS,
  type Lora,
  loadAdapter,
  type PromptFormat,
  readAdapterConfig,
  train as runTraining,
  type SequenceReport,
  type StepResult,
  saveAdapter,
  type TrainResult,
  trainingRecord,
  trainingSequences,
} from "@tslm/lora";
import type { Qwen } from "@tslm/qwen";
import { Generator, SCHEDULES } from "@tslm/tensor";
import { endTokenOf } from "../adapter.ts";
import { CommandError } from "../errors.ts";
import { locateModel, openModel } from "../model.ts";
import {
  checked,
  fraction,
  gathered,
  integer,
  modelCommand,
  notEmpty,
  option,
  positive,
  real,
  repetition,
} from "../options.ts";
import { duration, Progress } from "../progress.ts";
import {
  chooseSample,
  RECIPE_NAMES,
  RECIPES,
  type RecipeName,
  type Repetition,
  repeatRows,
  type Sample,
} from "../recipe.ts";
import { peakMemory } from "../resources.ts";
import type { Context } from "../run.ts";
import { table } from "../table.ts";
import { shellWord } from "../terminal.ts";
import { areConversations, FORMAT_NAMES, promptFormatOf, putSample } from "../training-data.ts";

const DEFAULT_DATA = "data/input/lora_train_data.csv";
/** Where the default data goes on its way to training. */
const CONVERTED_DATA = "data/output/train_data.json";
/** Longest sample answer. */
const SAMPLE_TOKENS = 100;

const share = real((x) => x >= 0 && x <= 1, "a number from 0 to 1");
const notNegative = real((x) => x >= 0, "a number of at least 0");
const layerNames = notEmpty.transform((text, context) => {
  const names = text.split(",").map((name) => name.trim());
  if (names.every((name) => /^[\w.]+$/.test(name))) return names;
  context.addIssue({ code: "custom", message: "all, or names of layers with commas between, such as q_proj,v_proj" });
  return [];
});

function describeDefault(key: "rank" | "alpha" | "epochs" | "lr"): string {
  const [usual, tuned] = [RECIPES.default[key], RECIPES.tuned[key]];
  return usual === tuned ? `default: ${usual}` : `default: ${usual}, tuned: ${tuned}`;
}

function trainCommand(context: Context) {
  return modelCommand(
    context,
    "train",
    "Fine-tune a model with LoRA: from a CSV to an adapter, and what it answers then.",
    [
      ["bun run train", "the whole job on the data that ships with the program"],
      ["bun run train --recipe tuned", "the cure when the answer is not learned yet"],
      ["bun run train --data my.csv --out model/mine --epochs 5", "on data of your own"],
      ["bun run train --init-adapter model/lora_adapter --out model/more", "go on from an adapter"],
    ],
  )
    .addOption(
      option(
        "--data <file>",
        "CSV with the columns input and output; or JSON or JSONL: Alpaca, chat messages, ShareGPT, prompt and completion",
        notEmpty,
      ).default(DEFAULT_DATA),
    )
    .addOption(option("--out <dir>", "folder of the adapter, in PEFT's format", notEmpty).default("model/lora_adapter"))
    .addOption(
      new Option("--recipe <name>", "tuned: rank 4, the sample question's row four times, more epochs, a higher rate")
        .choices(RECIPE_NAMES)
        .default("default" as const),
    )
    .addOption(option("--rank <n>", `rank of the adapter (${describeDefault("rank")})`, integer(1, 4096)))
    .addOption(
      option("--alpha <x>", `the adapter's change is scaled by alpha/rank (${describeDefault("alpha")})`, positive),
    )
    .addOption(option("--dropout <p>", "dropout in front of the adapter (default: 0.1)", fraction))
    .addOption(
      option("--targets <names>", "layers to adapt, or all for every linear one (default: q_proj,v_proj)", layerNames),
    )
    .addOption(option("--epochs <n>", `times every row is seen (${describeDefault("epochs")})`, integer(1, 100_000)))
    .addOption(option("--lr <rate>", `highest learning rate (${describeDefault("lr")})`, positive))
    .addOption(option("--batch <n>", "sequences in a batch", integer(1, 65_536)).default(1))
    .addOption(
      option(
        "--grad-accum <n>",
        "batches in a step: one change of the weights for batch × grad-accum sequences",
        integer(1, 65_536),
      ).default(4),
    )
    .addOption(
      option("--max-length <n>", "longer sequences are cut at their end, in tokens", integer(2, 1_000_000)).default(
        512,
      ),
    )
    .addOption(
      new Option("--scheduler <name>", "how the learning rate falls from step to step")
        .choices(SCHEDULES)
        .default("linear" as (typeof SCHEDULES)[number]),
    )
    .addOption(option("--warmup <r>", "share of the steps, at the start, in which the rate rises", share).default(0))
    .addOption(option("--weight-decay <x>", "decoupled weight decay", notNegative).default(0))
    .addOption(option("--clip <x>", "largest global norm of a gradient; 0: no limit", notNegative).default(1))
    .addOption(
      new Option(
        "--loss <tokens>",
        "tokens to learn: full: all; completion: the (last) answer's; assistant: every answer's",
      )
        .choices(LOSS_MASKS)
        .default("full" as const),
    )
    .option(
      "--repeat <text=n>",
      "rows whose input or output holds TEXT are seen N times; may be given again",
      gathered(checked(repetition)),
    )
    .addOption(
      option(
        "--init-adapter <dir>",
        "start from this adapter, with its rank, alpha, dropout and layers",
        notEmpty,
      ).conflicts(["rank", "alpha", "dropout", "targets"]),
    )
    .option("--no-shuffle", "take the rows in file order in every epoch");
}

type Options = ReturnType<ReturnType<typeof trainCommand>["opts"]>;

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

async function readData({ terminal, signal }: Context, file: string): Promise<TrainingExample[]> {
  const examples: TrainingExample[] = [];
  const read = async (path: string): Promise<string> => {
    const opened = await openExamples(path, { signal });
    for await (const { example } of opened.rows()) examples.push(example);
    return FORMAT_NAMES[opened.format];
  };
  if (file !== DEFAULT_DATA) {
    const format = await read(file);
    terminal.say(
      `Data: ${examples.length} ${areConversations(examples) ? "conversations" : "rows"} of ${file} (${format})`,
    );
    return examples;
  }
  if (!(await Bun.file(DEFAULT_DATA).exists())) {
    throw new CommandError(
      `${DEFAULT_DATA}: cannot be read: there is no such file here; run it in the program's folder, or give data of your own with --data FILE`,
    );
  }
  const { rows, emptiedCount } = await convertCsv({ input: DEFAULT_DATA, output: CONVERTED_DATA, signal });
  if (emptiedCount > 0) terminal.warn(`${emptiedCount} rows have no output after cleaning`);
  terminal.say(`Data: ${rows} rows of ${file}, cleaned into ${CONVERTED_DATA}`);
  await read(CONVERTED_DATA);
  return examples;
}

function prepare(
  { terminal }: Context,
  { tokenizer, config }: Qwen,
  rows: readonly TrainingExample[],
  prompt: PromptFormat,
  { loss, maxLength }: Options,
): SequenceReport {
  const longest = Math.min(maxLength, config.maxPositionEmbeddings);
  if (longest < maxLength) terminal.warn(`sequences are cut at ${longest} tokens, for which this model has positions`);
  const report = trainingSequences(rows, {
    prompt: prompt.format === 1 ? prompt : undefined,
    chat: tokenizer,
    encode: (text) => tokenizer.encode(text),
    endTokenId: endTokenOf(tokenizer, prompt),
    loss,
    maxLength: longest,
  });
  const { truncated, dropped, unanswered } = report;
  if (truncated.length > 0) {
    const most = truncated.reduce((n, { length }) => Math.max(n, length), 0);
    terminal.warn(
      `${truncated.length} of ${rows.length} sequences are longer than ${longest} tokens (up to ${most}) and were cut; raise --max-length to learn their ends`,
    );
  }
  if (dropped.length > 0) terminal.warn(`${dropped.length} of them were left out: the cut took their whole answer`);
  if (unanswered.length > 0) {
    terminal.warn(
      `${unanswered.length} of ${rows.length} conversations were left out: no answer in them is to be learned`,
    );
  }
  if (areConversations(rows) && loss === "full") {
    terminal.say("Every token is learned, the users' words too; with --loss assistant only the answers are.");
  }
  return report;
}

async function makeAdapter({ model }: Qwen, options: Options): Promise<Lora> {
  if (options.initAdapter !== undefined) return loadAdapter(options.initAdapter, model);
  const recipe = RECIPES[options.recipe];
  const targets = options.targets ?? ["q_proj", "v_proj"];
  const config = {
    r: options.rank ?? recipe.rank,
    lora_alpha: options.alpha ?? recipe.alpha,
    lora_dropout: options.dropout ?? 0.1,
    target_modules: targets.length === 1 && targets[0] === "all" ? "all-linear" : targets,
  };
  return applyLora(model, config, new Generator(options.seed));
}

/** The trainer's settings. */
function settingsOf(options: Options) {
  const { batch, gradAccum, scheduler, warmup, weightDecay, clip, shuffle, seed } = options;
  const recipe = RECIPES[options.recipe];
  const [epochs, lr] = [options.epochs ?? recipe.epochs, options.lr ?? recipe.lr];
  return { epochs, lr, batch, gradAccum, scheduler, warmup, weightDecay, clip, shuffle, seed };
}

/** What was run, by the names of the command line, for `training.json`. */
function recordOf(
  options: Options,
  settings: ReturnType<typeof settingsOf>,
  { config }: Lora,
): Record<string, unknown> {
  const { gradAccum, weightDecay, ...same } = settings;
  return {
    recipe: options.recipe satisfies RecipeName,
    rank: config.r,
    alpha: config.lora_alpha,
    dropout: config.lora_dropout,
    targets: config.target_modules,
    ...same,
    "grad-accum": gradAccum,
    "weight-decay": weightDecay,
    "max-length": options.maxLength,
    loss: options.loss,
    repeat: (options.repeat ?? []).map(({ text, times }: Repetition) => `${text}=${times}`),
    ...(options.initAdapter === undefined ? {} : { "init-adapter": options.initAdapter }),
    ...(options.quantize === undefined ? {} : { quantize: options.quantize }),
    ...(options.precision === "bf16" ? { precision: options.precision } : {}),
  };
}

async function answer(qwen: Qwen, ids: readonly number[], signal: AbortSignal): Promise<string> {
  const { text } = await qwen.complete(ids, { maxNewTokens: SAMPLE_TOKENS, signal });
  signal.throwIfAborted();
  return text;
}

async function runWithProgress(
  { terminal, signal }: Context,
  { model }: Qwen,
  lora: Lora,
  { sequences }: SequenceReport,
  options: ReturnType<typeof settingsOf>,
): Promise<TrainResult> {
  const progress = new Progress(terminal, "Training");
  let [tokens, seconds] = [0, 0];
  const onStep = (step: StepResult, total: number): void => {
    tokens += step.tokens;
    seconds += step.seconds;
    const rate = `${(tokens / seconds).toFixed(0)} tokens/s`;
    const note = `epoch ${step.epoch}/${options.epochs} · loss ${step.loss.toFixed(3)} · rate ${step.lr.toExponential(1)} · ${rate}`;
    progress.update(step.step / total, note);
  };
  try {
    return await runTraining({ model, lora, sequences, options, signal, onStep });
  } finally {
    progress.stop();
  }
}

interface Report {
  out: string;
  result: TrainResult;
  sample: Sample;
  before: string;
  after: string;
  diagnosis: Diagnosis;
}

const HEADLINE = {
  learned: "Learned.",
  underfitting: "Not learned yet (underfitting).",
  collapse: "The model broke (collapse).",
};

function report({ terminal }: Context, { out, result, sample, before, after, diagnosis }: Report): void {
  const { steps, tokens, seconds, tokens_per_second } = result;
  const [first, last] = [steps[0].loss, steps[steps.length - 1].loss];
  terminal.say(
    `Trained ${steps.length} steps, ${tokens} tokens in ${duration(seconds)} (${tokens_per_second.toFixed(0)} a second); loss ${first.toFixed(3)} → ${last.toFixed(3)}`,
  );
  terminal.print(
    table(["Question", "Before", "After"], [[sample.input || sample.instruction, before, after]], terminal.columns),
  );
  const { green, yellow } = terminal.colors;
  const paint = diagnosis.verdict === "learned" ? green : yellow;
  terminal.say(paint([HEADLINE[diagnosis.verdict], ...diagnosis.reasons].join(" ")));
  for (const line of diagnosis.advice) terminal.say(`  - ${line}`);
  const [question, adapter] = [sample.input || sample.instruction, out].map(shellWord);
  terminal.say(`The adapter is in ${out}. Ask it:  bun run ask ${question} --adapter ${adapter}`);
  terminal.say(`Serve it:  bun run serve --adapter ${adapter}`);
}
