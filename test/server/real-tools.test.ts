/** What real weights answer where they may call tools: read as calls where it is one, though without the template's marks. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import OpenAI from "openai";
import { createApp, createLogger, Engine, serve } from "../../apps/server/src/index.ts";
import { REAL_MODEL } from "../support/real-model.ts";

setDefaultTimeout(120_000);

const tool = (name: string, description: string, properties: Record<string, object>): OpenAI.ChatCompletionTool => ({
  type: "function",
  function: { name, description, parameters: { type: "object", properties, required: Object.keys(properties) } },
});
const tools = [
  tool("get_weather", "Get the current weather of a city", { city: { type: "string" } }),
  tool("add", "Adds two numbers", { a: { type: "number" }, b: { type: "number" } }),
];

if (REAL_MODEL === undefined) {
  test.skip("calls of tools by real weights: they are not on this machine", () => {});
} else {
  describe("tool_choice auto, real weights", () => {
    let engine: Engine;
    let server: ReturnType<typeof serve>;
    let client: OpenAI;
    beforeAll(async () => {
      const options = { name: "real", adapters: [], device: "cpu" as const, cacheBytes: 1 << 27 };
      engine = new Engine({ dir: REAL_MODEL as string, ...options });
      await engine.ready;
      const app = createApp({ backend: engine, logger: createLogger("silent") });
      server = serve({ app, port: 0, host: "127.0.0.1" });
      client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: "none" });
    });
    afterAll(async () => {
      await server.stop(0);
      await engine.dispose();
    });
    const body = (content: string) => ({
      ...{ model: "real", tools, max_tokens: 80, temperature: 0 },
      messages: [{ role: "user" as const, content }],
    });

    test("questions for which there is a tool are calls of it, whole and streamed; others are answers", async () => {
      const asked: [string, string, object][] = [
        ["What is the weather in Paris?", "get_weather", { city: "Paris" }],
        ["巴黎今天天气怎么样?", "get_weather", { city: "Paris" }],
        ["What is 17 plus 25? Use the tool.", "add", { a: 17, b: 25 }],
        ["Please add 3.5 and 4.", "add", { a: 3.5, b: 4 }],
      ];
      const answers = await Promise.all(asked.map(([question]) => client.chat.completions.create(body(question))));
      answers.forEach(({ choices: [choice] }, i) => {
        const [, name, args] = asked[i];
        const [call, ...others] = choice.message.tool_calls as OpenAI.ChatCompletionMessageFunctionToolCall[];
        expect([choice.finish_reason, choice.message.content, others]).toEqual(["tool_calls", null, []]);
        expect([call.function.name, JSON.parse(call.function.arguments)]).toEqual([name, args]);
      });
      const stream = client.chat.completions.stream(body(asked[0][0]));
      const { choices } = await stream.finalChatCompletion();
      expect(choices[0].finish_reason).toBe("tool_calls");
      expect(choices[0].message.tool_calls?.[0]).toMatchObject({ function: { name: asked[0][1] } });
    });

    test("JSON that is no call stays an answer", async () => {
      const question = "Give me a JSON object with the name and age of a fictional person.";
      const { choices } = await client.chat.completions.create(body(question));
      expect(choices[0].finish_reason).toBe("stop");
      expect(choices[0].message.tool_calls).toBeUndefined();
      expect(choices[0].message.content).toMatch(/\{[\s\S]*"age"[\s\S]*\}/);
      const { choices: given } = await client.chat.completions.create({
        ...body("What is the weather in Paris?"),
        response_format: { type: "json_object" },
      });
      expect(given[0].message.tool_calls).toBeUndefined();
      expect(JSON.parse(given[0].message.content ?? "")).toBeObject();
    });
  });
}
