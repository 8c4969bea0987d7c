import { cp, mkdir, readFile, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { ROOT, type Running, start } from "./process.ts";

const DEMO = join(ROOT, "models/demo");

/** A chat template that shows tools and their results, in the marks that Qwen2.5's has. */
const TEMPLATE = `{%- if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set rest = messages[1:] %}
{%- else %}{% set system = 'You are a helpful assistant.' %}{% set rest = messages %}{% endif %}
{{- '<|im_start|>system\\n' + system }}
{%- if tools %}{{ '\\n\\n<tools>' }}{% for tool in tools %}{{ '\\n' }}{{ tool | tojson }}{% endfor %}{{ '\\n</tools>' }}{% endif %}
{{- '<|im_end|>\\n' }}
{%- for message in rest %}
  {{- '<|im_start|>' + ('user' if message.role == 'tool' else message.role) + '\\n' }}
  {%- if message.role == 'tool' %}{{ '<tool_response>\\n' + message.content + '\\n</tool_response>' }}{% else %}{{ message.content }}{% endif %}
  {%- for call in message.tool_calls or [] %}{{ '\\n<tool_call>\\n' }}{{ call.function | tojson }}{{ '\\n</tool_call>' }}{% endfor %}
  {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}`;

/** The demo model with a chat template that knows tools, as real models have it. */
export async function writeToolModel(dir: string): Promise<void> {
  await mkdir(dir, { recursive: true });
  for (const file of ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json"]) {
    await symlink(join(DEMO, file), join(dir, file));
  }
  const config = JSON.parse(await readFile(join(DEMO, "tokenizer_config.json"), "utf8"));
  await writeFile(join(dir, "tokenizer_config.json"), JSON.stringify({ ...config, chat_template: TEMPLATE }));
}

/** A server that runs as a process of its own. */
export interface Served extends AsyncDisposable {
  readonly url: string;
  readonly model: string;
  readonly running: Running;
}

/** Starts `bun run serve` on a free port and waits until it answers; killed at the end of its scope. */
export async function serveProcess(
  args: readonly string[],
  env: Record<string, string | undefined> = {},
): Promise<Served> {
  const running = start("serve", ["--port", "0", "--json", ...args], { env });
  await running.printed("\n", "stdout");
  const { url, model } = JSON.parse(running.stdout()) as { url: string; model: string };
  return {
    url,
    model,
    running,
    async [Symbol.asyncDispose]() {
      running.process.kill("SIGKILL");
      await running.ended();
    },
  };
}

/** A copy of an adapter's folder. */
export const copyFolder = (from: string, to: string): Promise<void> => cp(from, to, { recursive: true });
