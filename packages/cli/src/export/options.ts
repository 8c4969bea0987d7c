import { Option } from "@commander-js/extra-typings";
import { STORED_TYPES, type StoredType } from "@tslm/tensor";
import { ADAPTER_MODEL, checked, deviceCommand, gathered, notEmpty, option } from "../options.ts";
import type { Context } from "../run.ts";

/** What can be made, and the types its weights may have, the usual one first. */
export const FORMATS = {
  safetensors: ["bf16", "f16", "f32"],
  gguf: ["bf16", ...STORED_TYPES.filter((type) => type !== "bf16")],
  "gguf-lora": ["f32", "f16", "bf16"],
  peft: ["f32"],
  mlx: ["f32"],
} as const satisfies Record<string, readonly StoredType[]>;
export type FormatName = keyof typeof FORMATS;

/** Formats that hold an adapter alone. */
export const ADAPTER_FORMATS: readonly FormatName[] = ["gguf-lora", "peft", "mlx"];

/** `export`'s options. */
export function exportCommand(context: Context) {
  return deviceCommand(
    context,
    "export",
    "Write a fine-tuned model, or its adapter, for other tools; then load it again and compare.",
    [
      ["bun run export --adapter model/lora_adapter --format safetensors --out out/merged", "for transformers, vLLM"],
      [
        "bun run export --adapter model/lora_adapter --format gguf --quantize q8_0 --out out/gguf",
        "for llama.cpp, Ollama, LM Studio",
      ],
      ["bun run export --adapter model/lora_adapter --format gguf-lora --out out/lora", "for llama.cpp's --lora"],
      ["bun run export --adapter model/lora_adapter --format mlx --out out/mlx", "for mlx-lm"],
      ["bun run export --format gguf --out out/base", "the base model alone"],
    ],
    ADAPTER_MODEL,
  )
    .addOption(
      option(
        "--adapter <path>",
        "the adapter: a folder of PEFT or mlx-lm, or a GGUF file of llama.cpp; without one, the base model is written",
        notEmpty,
      ),
    )
    .addOption(
      new Option("--format <name>", "safetensors and gguf: the whole model; the others: the adapter alone")
        .choices(Object.keys(FORMATS) as FormatName[])
        .makeOptionMandatory(),
    )
    .addOption(
      new Option(
        "--quantize <type>",
        `type of the weights; safetensors: ${FORMATS.safetensors.join(", ")}; gguf: these and ${STORED_TYPES.filter((type) => type.startsWith("q")).join(", ")} (default: bf16; of adapters f32)`,
      ).choices(STORED_TYPES),
    )
    .addOption(option("--out <folder>", "where to write it", notEmpty).makeOptionMandatory())
    .option("--overwrite", "replace what is in that folder")
    .option("--any-base", "write it although the adapter was trained on other weights than these")
    .option(
      "--question <text>",
      "a question that both must answer the same way, as training puts it; may be given again",
      gathered(checked(notEmpty)),
    );
}

export type ExportOptions = ReturnType<ReturnType<typeof exportCommand>["opts"]>;
