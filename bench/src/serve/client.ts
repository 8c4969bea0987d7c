import { EventSourceParserStream } from "eventsource-parser/stream";
import { z } from "zod";
import type { Ask } from "./measure.ts";

const models = z.object({ data: z.array(z.object({ id: z.string() })).min(1) });

const chunk = z.object({
  choices: z.array(z.object({ delta: z.object({ content: z.string().nullish() }) })),
  usage: z
    .object({
      prompt_tokens: z.int(),
      completion_tokens: z.int(),
      prompt_tokens_details: z.object({ cached_tokens: z.int() }).nullish(),
    })
    .nullish(),
});

/** Asks a server by OpenAI's interface, as streams. @throws Error for an answer that is not one */
export async function askServer(url: string): Promise<Ask> {
  const { data } = models.parse(await (await fetch(`${url}/v1/models`)).json());
  return async function* (question, tokens) {
    const response = await fetch(`${url}/v1/chat/completions`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({
        model: data[0].id,
        messages: [{ role: "user", content: question }],
        ...{ temperature: 0, repetition_penalty: 1, max_tokens: tokens, ignore_eos: true },
        ...{ stream: true, stream_options: { include_usage: true } },
      }),
    });
    if (!response.ok || !response.body) throw new Error(`${response.status}: ${await response.text()}`);
    const events = response.body.pipeThrough(new TextDecoderStream()).pipeThrough(new EventSourceParserStream());
    for await (const { data } of events) {
      if (data === "[DONE]") return;
      const { choices, usage } = chunk.parse(JSON.parse(data));
      for (const { delta } of choices) if (delta.content) yield { text: delta.content };
      if (!usage) continue;
      const { prompt_tokens: promptTokens, completion_tokens: completionTokens, prompt_tokens_details } = usage;
      const cachedTokens = prompt_tokens_details?.cached_tokens ?? 0;
      yield { text: "", usage: { promptTokens, completionTokens, cachedTokens } };
    }
  };
}
