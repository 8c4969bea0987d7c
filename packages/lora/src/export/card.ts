/** Model cards as the Hugging Face Hub reads them (https://huggingface.co/docs/hub/model-cards): YAML front matter, then Markdown. */

import type { LoraConfig } from "../config.ts";
import type { PromptFormat } from "../prompt.ts";
import type { TrainingRecord } from "../record.ts";

/** Last line of every card of ours: it may be written anew, another file of that name may not. */
const MARK = "<!-- written by tslm -->";

/** What a folder holds, for the front matter. */
export interface CardOptions {
  /** First heading. */
  title: string;
  /** One sentence under it. */
  about: string;
  /** Who loads it, as the Hub calls them: `peft`, `transformers`, `gguf`, `mlx`. */
  library: string;
  tags?: readonly string[];
  config?: LoraConfig;
  prompt?: PromptFormat;
  record?: TrainingRecord;
  /** Sections of their own, with their headings. */
  sections?: readonly string[];
}

/** Names on the Hub; folders of this machine are nobody's business. */
const HUB_NAME = /^[\w.-]+\/[\w.-]+$/;

/** Is this text a card that {@link formatCard} made? */
export function isCard(text: string): boolean {
  return text.trimEnd().endsWith(MARK);
}

/** The text of a `README.md`. */
export function formatCard({
  title,
  about,
  library,
  tags = [],
  config,
  prompt,
  record,
  sections = [],
}: CardOptions): string {
  const base = [record?.base_model, prompt?.base_model, config?.base_model_name_or_path].find(
    (name) => name && HUB_NAME.test(name),
  );
  const shown = [...(config ? ["lora"] : []), ...tags];
  const front = [
    "---",
    ...(base ? [`base_model: ${base}`] : []),
    `library_name: ${library}`,
    "pipeline_tag: text-generation",
    ...(shown.length > 0 ? ["tags:", ...shown.map((tag) => `  - ${tag}`)] : []),
    "---",
  ];
  const parts = [
    `${front.join("\n")}\n\n# ${title}`,
    about,
    ...(prompt ? [promptSection(prompt)] : []),
    ...sections,
    ...(config || record ? [settingsSection(config, record)] : []),
    ...(record ? [dataSection(record), resultsSection(record)] : []),
    MARK,
  ];
  return `${parts.join("\n\n")}\n`;
}

/** A Markdown table of two columns. */
export function markdownTable(rows: readonly (readonly [string, unknown])[]): string {
  const cell = (value: unknown): string => String(value).replaceAll("|", "\\|").replaceAll("\n", "⏎");
  return ["| | |", "| --- | --- |", ...rows.map(([name, value]) => `| ${name} | ${cell(value)} |`)].join("\n");
}

function promptSection(prompt: PromptFormat): string {
  if (prompt.format === 2) {
    const system =
      prompt.system === null
        ? ""
        : `, with this system text where a conversation has none:\n\n> ${prompt.system.replaceAll("\n", "\n> ")}\n`;
    return `## How to ask\n\nThrough the chat template${system || "."}\n\nAnswers end with \`${prompt.end_token}\`.`;
  }
  const fence = prompt.template.includes("```") ? "~~~~" : "```";
  const [before, between, after] = prompt.template.split("{}");
  return [
    "## How to ask",
    "The answer follows this text, as in training; put another way, the question is answered as if there had been no training.",
    `${fence}text\n${before}${prompt.instruction}${between}YOUR QUESTION${after}\n${fence}`,
    `Answers end with \`${prompt.end_token}\`.`,
  ].join("\n\n");
}

function settingsSection(config: LoraConfig | undefined, record: TrainingRecord | undefined): string {
  const rows: [string, unknown][] = [];
  if (config) {
    const { r, lora_alpha, lora_dropout, target_modules } = config;
    rows.push(
      ["rank", r],
      ["alpha", lora_alpha],
      ["dropout", lora_dropout],
      ["layers", [target_modules].flat().join(", ")],
    );
    if (config.use_rslora) rows.push(["rsLoRA", "yes"]);
    if (config.use_dora) rows.push(["DoRA", "yes"]);
  }
  const shown = new Set(["rank", "alpha", "dropout", "targets"]);
  for (const [name, value] of Object.entries(record?.options ?? {})) {
    if (shown.has(name) || value === undefined || (Array.isArray(value) && value.length === 0)) continue;
    rows.push([name, typeof value === "string" ? value : JSON.stringify(value)]);
  }
  return `## Settings\n\n${markdownTable(rows)}`;
}

/** The last part of a path. */
const fileName = (path: string): string => path.slice(Math.max(path.lastIndexOf("/"), path.lastIndexOf("\\")) + 1);

function dataSection({ data }: TrainingRecord): string {
  const { file, examples, tokens, sha256 } = data;
  const rows: [string, unknown][] = [];
  if (file !== undefined) rows.push(["file", fileName(file)]);
  rows.push(["examples", examples], ["tokens", tokens]);
  if (typeof sha256 === "string") rows.push(["SHA-256 of the file", sha256]);
  return `## Data\n\n${markdownTable(rows)}`;
}

function resultsSection({ steps, finished, ...record }: TrainingRecord): string {
  const rows: [string, unknown][] = [["steps", steps.length]];
  const [first, last] = [steps[0], steps.at(-1)];
  if (first && last) {
    rows.push(["loss, first step", first.loss.toFixed(4)], ["loss, last step", last.loss.toFixed(4)]);
    if (last.token_accuracy !== undefined) rows.push(["token accuracy, last step", last.token_accuracy.toFixed(4)]);
  }
  const { best } = record as { best?: { step?: unknown; loss?: unknown } };
  if (typeof best?.loss === "number")
    rows.push(["best validation loss", `${best.loss.toFixed(4)} (step ${best.step})`]);
  rows.push(["finished", finished]);
  return `## Results\n\n${markdownTable(rows)}`;
}
