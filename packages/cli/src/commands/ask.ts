import { DEFAULT_INSTRUCTION, putQuestion } from "@tslm/lora";
import { type ConstraintFactory, jsonSchemaConstraint, type Qwen, type Tokenizer } from "@tslm/qwen";
import { openModelWithAdapters, warnOfOtherBases } from "../adapter.ts";
import { UsageError } from "../errors.ts";
import {
  ADAPTER_MODEL,
  checked,
  gathered,
  integer,
  modelCommand,
  notEmpty,
  option,
  positive,
  real,
} from "../options.ts";
import type { Context } from "../run.ts";
import { printable } from "../terminal.ts";

/** `ask`: one question, one answer. */
export function ask(context: Context) {
  return modelCommand(
    context,
    "ask",
    "Ask a model a question, with or without an adapter.",
    [
      ['bun run ask "免费空间有多大?"', "the base model, in the words of the training data"],
      ['bun run ask "免费空间有多大?" --adapter model/lora_adapter', "the fine-tuned one"],
      ['bun run ask "Write a haiku." --chat --temperature 0.7', "through the model's chat template, drawn at random"],
    ],
    ADAPTER_MODEL,
  )
    .argument("<question>", "what to ask", checked(notEmpty))
    .addOption(option("--adapter <dir>", "a LoRA adapter: a folder of PEFT or mlx-lm, or a GGUF file", notEmpty))
    .option("--chat", "put the question through the model's chat template instead of the training data's prompt")
    .addOption(
      option(
        "--instruction <text>",
        `the instruction above the question (default: the adapter's, without one "${DEFAULT_INSTRUCTION}")`,
        notEmpty,
      ).conflicts("chat"),
    )
    .addOption(option("--max-new-tokens <n>", "longest answer", integer(1, 1_000_000)).default(100))
    .addOption(
      option(
        "--temperature <t>",
        "0 takes the likeliest token every time; higher is more varied",
        real((x) => x >= 0, "a number of at least 0"),
      ).default(0),
    )
    .addOption(option("--top-k <k>", "draw from the k likeliest tokens only; 0: from all", integer(0)).default(0))
    .addOption(
      option(
        "--top-p <p>",
        "draw from the likeliest tokens that together have this probability",
        real((x) => x > 0 && x <= 1, "a number above 0 and at most 1"),
      ).default(1),
    )
    .addOption(
      option(
        "--min-p <p>",
        "leave out tokens less likely than this times the likeliest",
        real((x) => x >= 0 && x <= 1, "a number from 0 to 1"),
      ).default(0),
    )
    .addOption(
      option("--repetition-penalty <x>", "above 1: less likely to say again what was said", positive).default(1),
    )
    .addOption(
      option(
        "--typical-p <p>",
        "draw from the tokens about as surprising as expected that together have this probability",
        real((x) => x > 0 && x <= 1, "a number above 0 and at most 1"),
      ).default(1),
    )
    .addOption(
      option(
        "--presence-penalty <x>",
        "above 0: less likely to name again what the answer named",
        real(() => true, "a number"),
      ).default(0),
    )
    .addOption(
      option(
        "--frequency-penalty <x>",
        "above 0: the less likely, the more often the answer had it",
        real(() => true, "a number"),
      ).default(0),
    )
    .addOption(option("--json-schema <file>", "answer in JSON that meets the JSON schema in this file", notEmpty))
    .option("--stop <text>", "end the answer before this text; may be given again", gathered(checked(notEmpty)))
    .action(async (question, options) => {
      const { terminal, signal } = context;
      context.kept = "Nothing was changed.";
      const open = await openModelWithAdapters(context, options.adapter ? [options.adapter] : [], options);
      try {
        warnOfOtherBases(context, open.adapters);
        const { tokenizer } = open.qwen;
        const [adapter] = open.adapters;
        adapter?.lora.attach();
        const format = adapter?.prompt ?? open.prompt;
        const { text: prompt, ids } = options.chat
          ? putToChat(tokenizer, question)
          : putQuestion({ instruction: options.instruction, input: question }, format, tokenizer);
        const { maxNewTokens, temperature, topK, topP, minP, typicalP, stop, seed, ...penalties } = options;
        const { repetitionPenalty, presencePenalty, frequencyPenalty } = penalties;
        const sampling = {
          ...{ maxNewTokens, temperature, topK, topP, minP, typicalP, stop, seed },
          ...{ repetitionPenalty, presencePenalty, frequencyPenalty },
          constraint: options.jsonSchema ? await readConstraint(options.jsonSchema, open.qwen) : undefined,
        };

        const tokens: number[] = [];
        let text = "";
        let finishReason: string | undefined;
        const started = performance.now();
        let [first, last] = [started, started];
        for await (const step of open.qwen.generate(ids, { ...sampling, signal })) {
          text += step.text;
          if (!options.json) terminal.out(printable(step.text));
          finishReason = step.finishReason;
          if (step.token === undefined) continue;
          tokens.push(step.token);
          last = performance.now();
          if (tokens.length === 1) first = last;
        }
        if (!options.json) terminal.print("");
        signal.throwIfAborted();
        // The first token waits for the prompt; a single one says nothing of the rate after it.
        const [count, span] = tokens.length > 1 ? [tokens.length - 1, last - first] : [tokens.length, last - started];
        const rate = span > 0 ? (count / span) * 1000 : 0;
        if (options.json) {
          const result = { prompt, prompt_tokens: ids, tokens, text, finish_reason: finishReason };
          terminal.json({ ...result, tokens_per_second: rate });
        } else {
          const cut = finishReason === "length" ? "; cut at --max-new-tokens" : "";
          const speaker = adapter === undefined ? open.name : `${open.name} with ${adapter.dir}`;
          const summary = `${speaker}: ${tokens.length} tokens, ${rate.toFixed(1)} a second${cut}`;
          terminal.say(terminal.colors.dim(summary));
        }
      } finally {
        await open.dispose();
      }
    });
}

/** @throws Error naming the file */
async function readConstraint(file: string, { tokenizer, generationConfig }: Qwen): Promise<ConstraintFactory> {
  try {
    const schema: unknown = JSON.parse(await Bun.file(file).text());
    return jsonSchemaConstraint(schema, tokenizer, { endTokens: generationConfig.eosTokenIds });
  } catch (cause) {
    throw new UsageError(`--json-schema ${file}: ${(cause as Error).message}`, { cause });
  }
}

/** A question to the model as it was before any training here. */
function putToChat(tokenizer: Tokenizer, content: string): { text: string; ids: number[] } {
  const text = tokenizer.renderChat([{ role: "user", content }]);
  return { text, ids: tokenizer.encode(text) };
}
