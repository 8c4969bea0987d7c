import { writeFile } from "node:fs/promises";
import { basename, dirname, resolve } from "node:path";
import {
  adapterFiles,
  baseFingerprint,
  type CardOptions,
  chatPromptFormat,
  type FileContent,
  formatCard,
  formatModelfile,
  formatPrompt,
  formatRecord,
  mergedChatTemplate,
  mergedParameters,
  mlxFiles,
  PROMPT_FILE,
  PROMPT_KEY,
  type PromptFormat,
  RECORD_FILE,
  type TrainingRecord,
  writeLoraGguf,
} from "@tslm/lora";
import {
  ChatTemplate,
  type FolderType,
  ggufSources,
  type ModelToWrite,
  parameterShapes,
  writeModelFolder,
  writeModelGguf,
} from "@tslm/qwen";
import { type StoredType, storedBytes, type Tensor } from "@tslm/tensor";
import { endTokenOf, type OpenAdapter, type OpenModelWithAdapters } from "../adapter.ts";
import { type Check, percent } from "./check.ts";
import type { FormatName } from "./options.ts";

/** What is to be written. */
export interface Export {
  readonly format: FormatName;
  readonly type: StoredType;
  /** Folder that it will be in. */
  readonly out: string;
  readonly open: OpenModelWithAdapters;
  readonly adapter: OpenAdapter | undefined;
  /** How training put a question; undefined where nothing says so. */
  readonly prompt: PromptFormat | undefined;
  readonly record: TrainingRecord | undefined;
  /** Called as each tensor is read, with the bytes of those before it. */
  readonly onProgress: (bytes: number) => void;
}

/** The weights among an export's files. */
export interface Contents {
  /** Files in the order in which they are written; the card is not among them. */
  readonly files: Record<string, FileContent>;
  /** What is loaded again: a name below the folder, or the folder itself. */
  readonly weights: string;
  /** About how many bytes they take. */
  readonly bytes: number;
  readonly card: (check: Check) => string;
}

/** What an export consists of. */
export function contentsOf(job: Export): Contents {
  switch (job.format) {
    case "safetensors":
      return mergedFolder(job);
    case "gguf":
      return mergedGguf(job);
    default:
      return adapterAlone(job);
  }
}

/** What questions to the exported model look like: as training put them, else through the model's own chat template. */
function promptOf({ prompt, open }: Export): PromptFormat {
  return prompt ?? chatPromptFormat(open.name);
}

function modelToWrite(job: Export): ModelToWrite {
  const { open, adapter, onProgress, type } = job;
  const { config, generationConfig, tokenizer, model } = open.qwen;
  const prompt = promptOf(job);
  const { files } = tokenizer;
  const read = mergedParameters(model, adapter?.lora);
  const shapes = parameterShapes(config);
  let written = 0;
  return {
    config,
    // As `ask` answers: greedily, and to the end token of training.
    generationConfig: adapter
      ? {
          ...generationConfig,
          eosTokenIds: [...new Set([endTokenOf(tokenizer, prompt), ...generationConfig.eosTokenIds])],
          doSample: false,
          ...{ temperature: 1, topK: 50, topP: 1, minP: 0, repetitionPenalty: 1 },
        }
      : generationConfig,
    tokenizer: {
      ...files,
      config: adapter ? { ...files.config, eos_token: prompt.end_token } : files.config,
      chatTemplate: adapter ? mergedChatTemplate(prompt, files.chatTemplate) : files.chatTemplate,
    },
    read(name): Tensor {
      onProgress(written);
      written += storedBytes(type, shapes.get(name)!);
      return read(name);
    },
  };
}

/** `prompt.json` and `training.json`, where there is anything to say. */
function records({ prompt, record }: Export): Record<string, string> {
  return {
    ...(prompt && { [PROMPT_FILE]: formatPrompt({ ...prompt, base_fingerprint: undefined }) }),
    ...(record && { [RECORD_FILE]: formatRecord(record) }),
  };
}

function mergedFolder(job: Export): Contents {
  const { config } = job.open.qwen;
  const type = job.type as FolderType;
  const names = [
    "model.safetensors",
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
  ];
  const written = (path: string): Promise<void> => writeModelFolder(dirname(path), modelToWrite(job), type);
  // The writer makes them all; the others are there when their turn comes.
  const files = Object.fromEntries(names.map((name, i) => [name, i === 0 ? written : async () => {}]));
  const sizes = [...parameterShapes(config).values()].map((shape) => storedBytes(type, shape));
  return {
    files: { ...files, ...records(job) },
    weights: ".",
    bytes: sum(sizes),
    card: card(
      job,
      "transformers",
      `Load it as any model: \`AutoModelForCausalLM.from_pretrained("${basename(job.out)}")\`.`,
    ),
  };
}

function mergedGguf(job: Export): Contents {
  const { open, adapter, type, out } = job;
  const name = basename(resolve(out));
  const file = `${name}-${type}.gguf`;
  const prompt = promptOf(job);
  const model = modelToWrite(job);
  const metadata = new Map(job.prompt ? [[PROMPT_KEY, formatPrompt({ ...prompt, base_fingerprint: undefined })]] : []);
  const { chatTemplate } = model.tokenizer;
  const template = chatTemplate === undefined ? undefined : new ChatTemplate(chatTemplate, "the chat template");
  const sources = ggufSources(open.qwen.config, model.read, type);
  return {
    files: {
      [file]: (path) =>
        writeModelGguf(path, model, type, {
          name: adapter ? `${open.name} with ${adapter.name}` : open.name,
          metadata,
        }),
      ...(template && {
        Modelfile: formatModelfile(file, prompt, (messages) => template.render(messages), adapter !== undefined),
      }),
      ...records(job),
    },
    weights: file,
    bytes: sum([...sources.values()].map(({ type, shape }) => storedBytes(type, shape))),
    card: card(
      job,
      "gguf",
      `- llama.cpp: \`llama-cli -m ${file}\`\n- Ollama: \`ollama create ${name.toLowerCase()} -f Modelfile\`\n- LM Studio, Jan and others load the file and take the chat template from it.`,
      type.startsWith("q") ? ["quantized"] : [],
    ),
  };
}

function adapterAlone(job: Export): Contents {
  const { format, out, open, type, record } = job;
  const { lora, name } = job.adapter!;
  const base = lora.config.base_model_name_or_path ?? open.name;
  const prompt = job.prompt;
  const bytes = sum(lora.parameters().map((t) => storedBytes(type, t.shape)));
  if (format === "gguf-lora") {
    const file = `${basename(resolve(out))}-${type}.gguf`;
    const write = async (path: string): Promise<void> => {
      const text = prompt && formatPrompt({ ...prompt, base_fingerprint: await baseFingerprint(open.qwen.model) });
      await writeLoraGguf(path, lora, { name, baseModel: base, prompt: text, type: type as FolderType });
    };
    const use = `llama.cpp: \`llama-cli -m BASE.gguf --lora ${file}\`, where BASE.gguf is the model that the adapter was trained on, in any type.`;
    return { files: { [file]: write, ...adapterRecords(job) }, weights: file, bytes, card: card(job, "gguf", use) };
  }
  if (format === "mlx") {
    const files = mlxFiles(lora, open.qwen.config.numHiddenLayers, base);
    const use = `mlx-lm: \`mlx_lm.generate --model ${base} --adapter-path ${basename(resolve(out))}\`.`;
    return { files: { ...files, ...adapterRecords(job) }, weights: ".", bytes, card: card(job, "mlx", use) };
  }
  const use = `PEFT: \`PeftModel.from_pretrained(model, "${basename(resolve(out))}")\`.`;
  return {
    files: adapterFiles(lora, { baseModel: base, prompt, record }),
    weights: ".",
    bytes,
    card: card(job, "peft", use),
  };
}

/** As `records`, with what tells the base model, which is another file here. */
function adapterRecords(job: Export): Record<string, FileContent> {
  const { prompt, open } = job;
  return {
    ...records(job),
    ...(prompt && {
      [PROMPT_FILE]: async (path: string) => {
        await writeFile(path, formatPrompt({ ...prompt, base_fingerprint: await baseFingerprint(open.qwen.model) }));
      },
    }),
  };
}

/** The card of an export, once it is known how well it came out. */
function card(job: Export, library: string, use: string, tags: readonly string[] = []): Contents["card"] {
  const { open, adapter, prompt, record, out, format } = job;
  const what = adapter ? `The adapter \`${adapter.name}\`, fine-tuned on ${open.name}` : open.name;
  const options: CardOptions = {
    title: basename(resolve(out)),
    about:
      format === "safetensors" || format === "gguf"
        ? `${what}${adapter ? ", merged into the model" : ""}.`
        : `${what}.`,
    library,
    tags,
    config: adapter?.lora.config,
    prompt,
    record,
  };
  return (check) => {
    const checked = [
      `Loaded again after writing (${check.prompts} texts): largest difference of a logit from the model in memory ${check.largest.toPrecision(3)},`,
      `in all ${percent(check.relative)} of the logits' spread; the same next token after ${check.sameToken} of them.`,
    ].join(" ");
    return formatCard({ ...options, sections: [`## How to use it\n\n${use}`, `## Checked\n\n${checked}`] });
  };
}

const sum = (numbers: readonly number[]): number => numbers.reduce((total, n) => total + n, 0);
