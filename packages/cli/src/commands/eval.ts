import { DataError, readJsonRows } from "@tslm/data";
import { type PromptFormat, putQuestion } from "@tslm/lora";
import { perplexity, type Qwen, type Score } from "@tslm/qwen";
import { z } from "zod";
import { answerCase, readQuestions } from "../accuracy.ts";
import { endTokenOf, openModelWithAdapters, warnOfOtherBases } from "../adapter.ts";
import { ADAPTER_MODEL, integer, type ModelOptions, modelCommand, notEmpty, option } from "../options.ts";
import { Progress } from "../progress.ts";
import type { Context } from "../run.ts";
import { printable } from "../terminal.ts";

const text = z.string({ error: "must be a text" });
const caseSchema = z.union(
  [
    z.object({ text: text.min(1) }),
    z.object({ messages: z.array(z.object({ role: text, content: text })).min(1) }),
    z.object({ instruction: text, input: text.default(""), output: text.optional() }),
  ],
  { error: 'a case is {"text"}, {"messages": [{"role", "content"}]} or {"instruction", "input", "output"}' },
);
type Case = z.output<typeof caseSchema>;

/** Longest answer with `--accuracy`, where nothing else is said. */
const ANSWER_TOKENS = 100;

/** `eval`: what a model thinks of given texts, and how it goes on; or how many questions it answers rightly. */
export function evaluate(context: Context) {
  return modelCommand(
    context,
    "eval",
    "Measure how likely a model finds texts, and see how it would go on.",
    [
      ["bun run eval cases.jsonl", "log-probabilities and perplexity"],
      ["bun run eval data/output/train_data.json --adapter model/lora_adapter", "of the training data, after training"],
      ["bun run eval cases.jsonl --generate 40 --json", "with 40 tokens of greedy continuation, a JSON line a case"],
      [
        "bun run eval held-out.csv --accuracy --adapter model/lora_adapter",
        "how many answers have the facts of the data",
      ],
    ],
    ADAPTER_MODEL,
  )
    .argument(
      "<file>",
      'JSONL or a JSON list of {"text"}, {"messages"} or {"instruction", "input", "output"}; with --accuracy any training data',
    )
    .addOption(option("--adapter <dir>", "a LoRA adapter: a folder of PEFT or mlx-lm, or a GGUF file", notEmpty))
    .addOption(
      option("--generate <n>", "continue each text greedily by at most so many tokens", integer(0, 1_000_000)).default(
        0,
      ),
    )
    .option("--accuracy", "ask each row's question, and count the answers that have the facts of its output, exactly")
    .action(async (file, options) => {
      if (options.accuracy) return measureAccuracy(context, file, options);
      const { terminal, signal } = context;
      context.kept = "The cases so far were printed.";
      const cases = await readCases(file, signal);
      const open = await openModelWithAdapters(context, options.adapter ? [options.adapter] : [], options);
      const progress = new Progress(terminal, "Evaluating");
      try {
        warnOfOtherBases(context, open.adapters);
        const [adapter] = open.adapters;
        adapter?.lora.attach();
        const scores: Pick<Score, "tokenLogprobs">[] = [];
        for (const [i, one] of cases.entries()) {
          const { prompt, ids } = encodeCase(one, open.qwen, adapter?.prompt ?? open.prompt);
          const scored = await open.qwen.score(ids, { signal });
          const continuation =
            options.generate > 0
              ? await open.qwen.complete(ids, { maxNewTokens: options.generate, signal })
              : { text: "", tokens: [] };
          signal.throwIfAborted();
          scores.push({ tokenLogprobs: scored.tokenLogprobs });
          progress.update((i + 1) / cases.length, `${i + 1} of ${cases.length} cases`);
          if (!options.json) {
            terminal.print(describe(i + 1, prompt, scored, continuation.text));
            continue;
          }
          terminal.json({
            prompt,
            ids,
            token_logprobs: scored.tokenLogprobs,
            top: scored.top,
            logsumexp: scored.logsumexp,
            text: continuation.text,
            tokens: continuation.tokens,
          });
        }
        const all = perplexity(scores);
        if (options.json) terminal.json({ perplexity: Number.isFinite(all) ? all : null, cases: cases.length });
        else
          terminal.print(`perplexity ${all.toFixed(3)} over ${cases.length} ${cases.length === 1 ? "case" : "cases"}`);
      } finally {
        progress.stop();
        await open.dispose();
      }
    });
}

interface AccuracyOptions extends ModelOptions {
  readonly adapter?: string;
  readonly generate: number;
  readonly json?: boolean;
}

/** `--accuracy`: a line for each wrong answer, or in JSON for each, and the share of right ones. */
async function measureAccuracy(context: Context, file: string, options: AccuracyOptions): Promise<void> {
  const { terminal, signal } = context;
  context.kept = "The cases so far were printed.";
  const questions = await readQuestions(file, signal);
  const open = await openModelWithAdapters(context, options.adapter ? [options.adapter] : [], options);
  const progress = new Progress(terminal, "Asking");
  try {
    warnOfOtherBases(context, open.adapters);
    const [adapter] = open.adapters;
    adapter?.lora.attach();
    const limits = { maxNewTokens: options.generate || ANSWER_TOKENS, signal };
    let exact = 0;
    for (const [i, question] of questions.entries()) {
      const answered = await answerCase(open.qwen, question, adapter?.prompt ?? open.prompt, limits);
      signal.throwIfAborted();
      if (answered.exact) exact++;
      progress.update((i + 1) / questions.length, `${exact} of ${i + 1} right, ${questions.length} in all`);
      if (options.json) terminal.json(answered);
      else if (!answered.exact) {
        const [asked, said, wanted] = [answered.question, answered.text, answered.expected].map(printable);
        terminal.print(`${i + 1}. ${asked}\n   → ${said}\n   not: ${wanted}`);
      }
    }
    const accuracy = exact / questions.length;
    if (options.json) terminal.json({ accuracy, exact, cases: questions.length });
    else
      terminal.print(
        `${exact} of ${questions.length} answers have the facts of the data (${(100 * accuracy).toFixed(1)} %)`,
      );
  } finally {
    progress.stop();
    await open.dispose();
  }
}

async function readCases(file: string, signal: AbortSignal): Promise<Case[]> {
  const cases: Case[] = [];
  for await (const { value, row, line } of readJsonRows(file, { signal })) {
    const result = caseSchema.safeParse(value);
    if (!result.success) throw new DataError("field", { file, row, line }, result.error.issues[0].message);
    cases.push(result.data);
  }
  return cases;
}

/** The text to measure and its tokens. */
function encodeCase(one: Case, { tokenizer }: Qwen, format: PromptFormat): { prompt: string; ids: readonly number[] } {
  const encoded = (prompt: string) => ({ prompt, ids: tokenizer.encode(prompt) });
  if ("text" in one) return encoded(one.text);
  if ("messages" in one) {
    // A conversation that ends with an answer is measured as it is; otherwise the answer is what follows.
    const addGenerationPrompt = one.messages.at(-1)!.role !== "assistant";
    return encoded(tokenizer.renderChat(one.messages, { addGenerationPrompt }));
  }
  const { output } = one;
  const put = putQuestion(one, format, tokenizer);
  if (output === undefined) return { prompt: put.text, ids: put.ids };
  const endTokenId = endTokenOf(tokenizer, format);
  const answer = format.format === 1 ? output + format.template.split("{}")[3] : output;
  return { prompt: put.text + answer + format.end_token, ids: [...put.ids, ...tokenizer.encode(answer), endTokenId] };
}

function describe(number: number, prompt: string, score: Score, continuation: string): string {
  const own = perplexity([score]);
  const shown = printable(prompt).replaceAll(/\s+/g, " ");
  const start = [...shown].length > 60 ? `${[...shown].slice(0, 60).join("")}…` : shown;
  const lines = [`${number}. ${start}`, `   perplexity ${Number.isNaN(own) ? "-" : own.toFixed(3)}`];
  if (continuation !== "") lines.push(`   → ${printable(continuation)}`);
  return lines.join("\n");
}
