import { mkdir, mkdtemp, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { BYTE_TO_CHAR } from "../byte-level.ts";

// Qwen2's pattern, as its tokenizer.json has it.
const PATTERN =
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

const chars = (text: string) => Array.from(new TextEncoder().encode(text), (byte) => BYTE_TO_CHAR[byte]!);

/** A tokenizer of the Qwen2 kind with 256 byte tokens and a few merges, some of which end inside a Chinese character. */
export function tinyTokenizerJson() {
  const vocab: Record<string, number> = {};
  BYTE_TO_CHAR.forEach((char, byte) => {
    vocab[char] = byte;
  });
  const merges: string[] = [];
  const merge = (left: string, right: string) => {
    merges.push(`${left} ${right}`);
    vocab[left + right] = Object.keys(vocab).length;
  };
  merge("h", "e");
  merge("l", "l");
  merge("he", "ll");
  merge("hell", "o");
  const [a, b, c] = chars("中") as [string, string, string];
  merge(a, b); // two of three bytes
  merge(a + b, c);
  const [d, e] = chars("文") as [string, string];
  merge(c, d); // the end of one character and the beginning of the next
  merge(d, e);
  const base = Object.keys(vocab).length;
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>"].map((content, i) => ({
      id: base + i,
      content,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special: content.startsWith("<|"),
    })),
    normalizer: { type: "NFC" },
    pre_tokenizer: {
      type: "Sequence",
      pretokenizers: [
        { type: "Split", pattern: { Regex: PATTERN }, behavior: "Isolated", invert: false },
        { type: "ByteLevel", add_prefix_space: false, trim_offsets: false, use_regex: false },
      ],
    },
    post_processor: { type: "ByteLevel", add_prefix_space: false, trim_offsets: false, use_regex: false },
    decoder: { type: "ByteLevel", add_prefix_space: false, trim_offsets: false, use_regex: false },
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: "",
      end_of_word_suffix: "",
      fuse_unk: false,
      byte_fallback: false,
      vocab,
      merges: merges as unknown[],
    },
  };
}

export const tinyTokenizerConfig = {
  bos_token: null,
  eos_token: "<|im_end|>",
  pad_token: "<|endoftext|>",
  chat_template:
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{%- endfor %}" +
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}",
};

/** Writes a folder with the given files, objects as JSON, into a new temporary folder and returns its path. */
export async function writeFolder(files: Record<string, unknown>): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), "tslm-tokenizer-"));
  await mkdir(dir, { recursive: true });
  for (const [name, content] of Object.entries(files)) {
    await writeFile(join(dir, name), typeof content === "string" ? content : JSON.stringify(content));
  }
  return dir;
}
