import { Tokenizer as Backend } from "@huggingface/tokenizers";
import { z } from "zod";
import { checkShape } from "../check-shape.ts";
import { ModelFileError } from "../errors.ts";
import { bytesOfToken } from "./byte-level.ts";
import { type ChatMessage, ChatTemplate, ChatTemplateError, type RenderOptions } from "./chat-template.ts";
import { TextStream, type TextStreamOptions } from "./text-stream.ts";
import { checkTokenizerJson, type TokenizerJson } from "./tokenizer-json.ts";

const NO_BYTES = new Uint8Array(0);

const specialToken = z
  .union([z.string(), z.looseObject({ content: z.string() }).transform((token) => token.content)], {
    error: "must be a token",
  })
  .nullish();

const configSchema = z.looseObject(
  {
    bos_token: specialToken,
    eos_token: specialToken,
    pad_token: specialToken,
    unk_token: specialToken,
    additional_special_tokens: z.array(specialToken, { error: "must be a list of tokens" }).nullish(),
    chat_template: z
      .union([z.string(), z.array(z.looseObject({ name: z.string(), template: z.string() })).min(1)], {
        error: "must be a template or a list of {name, template}",
      })
      .nullish(),
  },
  { error: "must be a JSON object" },
);

export interface EncodeOptions {
  /**
   * Recognise control tokens such as `<|im_end|>` in the text. False takes them as the plain characters they are written
   * with, for text of strangers that must not be able to end a message. Default true.
   */
  specialTokens?: boolean;
}

export interface DecodeOptions {
  /** Leave control tokens out of the text. Default false. */
  skipSpecialTokens?: boolean;
}

/** What the files of a tokenizer hold, to write them again. */
export interface TokenizerFiles {
  /** `tokenizer.json`. */
  readonly json: Readonly<Record<string, unknown>>;
  /** `tokenizer_config.json`, without the chat template. */
  readonly config: Readonly<Record<string, unknown>>;
  /** The chat template in Jinja. */
  readonly chatTemplate: string | undefined;
}

export interface LoadTokenizerOptions {
  /** Rows of the model's embedding (`ModelConfig.vocabSize`); a tokenizer with ids beyond is refused. */
  vocabSize?: number;
}

/** A Qwen2 tokenizer: byte-level BPE with control tokens, and the model's chat template. Made by `loadTokenizer`. */
export class Tokenizer {
  /** One more than the highest token id. The embedding may have more rows. */
  readonly size: number;
  readonly bosTokenId: number | undefined;
  readonly eosTokenId: number | undefined;
  readonly padTokenId: number | undefined;
  readonly #json: TokenizerJson;
  readonly #file: string;
  #library: Backend | undefined;
  readonly #special: ReadonlySet<number>;
  readonly #added: ReadonlyMap<number, string>;
  readonly #addedIds: ReadonlyMap<string, number>;
  readonly #bytes: (Uint8Array | undefined)[] = [];
  readonly #templates: ReadonlyMap<string, ChatTemplate>;
  readonly #config: z.output<typeof configSchema>;
  readonly #chatTemplate: string | undefined;
  readonly #dir: string;

  /** Use `loadTokenizer`. */
  constructor(dir: string, json: TokenizerJson, config: z.output<typeof configSchema>, template: string | undefined) {
    this.#dir = dir;
    this.#file = `${dir}/tokenizer.json`;
    this.#json = json;
    // Without its large tables, so that what the library refuses is told now.
    this.#makeBackend({ ...json.model, vocab: {}, merges: [] });
    this.#added = new Map(json.added_tokens.map((token) => [token.id, token.content]));
    this.#addedIds = new Map(json.added_tokens.map((token) => [token.content, token.id]));
    const special = json.added_tokens.filter((token) => token.special).map((token) => token.id);
    for (const token of config.additional_special_tokens ?? []) {
      const id = token == null ? undefined : this.tokenToId(token);
      if (id !== undefined) special.push(id);
    }
    this.#special = new Set(special);

    this.size = json.tokenOf.length;

    const named = (field: "bos_token" | "eos_token" | "pad_token"): number | undefined => {
      const token = config[field];
      if (token == null) return undefined;
      const id = this.tokenToId(token);
      if (id !== undefined) return id;
      const problem = `${JSON.stringify(token)} is not a token of tokenizer.json`;
      throw new ModelFileError(`${dir}/tokenizer_config.json`, problem, { field });
    };
    this.bosTokenId = named("bos_token");
    this.eosTokenId = named("eos_token");
    this.padTokenId = named("pad_token");
    this.#templates = readTemplates(dir, config, template);
    this.#config = config;
    this.#chatTemplate = template ?? templatesOf(config).find(({ name }) => name === "default")?.template;
  }

  /** What the tokenizer's files hold. */
  get files(): TokenizerFiles {
    const { tokenOf: _, ...json } = this.#json;
    const { chat_template: __, ...config } = this.#config;
    return { json, config, chatTemplate: this.#chatTemplate };
  }

  /** The library's tokenizer, made at the first use: its table of merges takes longer than mapping the weights. */
  get #backend(): Backend {
    this.#library ??= this.#makeBackend(this.#json.model);
    return this.#library;
  }

  #makeBackend(model: object): Backend {
    const { tokenOf: _, ...json } = this.#json;
    try {
      // clean_up_tokenization_spaces would take characters out of a text depending on what follows: never for Qwen2.
      return new Backend({ ...json, model }, { clean_up_tokenization_spaces: false });
    } catch (error) {
      throw new ModelFileError(this.#file, `cannot be used: ${(error as Error).message}`, { cause: error });
    }
  }

  /** Token ids of a text. */
  encode(text: string, options: EncodeOptions = {}): number[] {
    if (options.specialTokens ?? true) return this.#backend.encode(text).ids;
    // The library has no such switch; these are its steps between splitting at added tokens and looking up ids.
    const { normalizer, pre_tokenizer: preTokenizer, model } = this.#backend;
    const normal = normalizer ? normalizer.normalize(text) : text;
    if (normal === "") return [];
    return model!.encode(preTokenizer!.pre_tokenize(normal)).map((token) => this.tokenToId(token)!);
  }

  /**
   * Text of token ids. An id without a token (embeddings are padded) gives no text; bytes that are no character give U+FFFD.
   *
   * @throws RangeError if an id is not a whole number of at least 0
   */
  decode(ids: Iterable<number>, options: DecodeOptions = {}): string {
    const known = Array.from(ids).filter((id, i) => {
      if (!Number.isInteger(id) || id < 0)
        throw new RangeError(`token id ${id} at position ${i} is no whole number from 0`);
      return this.idToToken(id) !== undefined && !(options.skipSpecialTokens && this.isSpecial(id));
    });
    return known.length === 0 ? "" : this.#backend.decode(known);
  }

  /** Decodes ids one at a time, in whole characters; see `TextStream`. */
  stream(options: TextStreamOptions = {}): TextStream {
    return new TextStream(this, options);
  }

  /** Id of a token as the vocabulary writes it (`Ġthe`, `<|im_end|>`), or undefined. */
  tokenToId(token: string): number | undefined {
    const { vocab } = this.#json.model;
    return Object.hasOwn(vocab, token) ? vocab[token] : this.#addedIds.get(token);
  }

  /** A token as the vocabulary writes it, or undefined. */
  idToToken(id: number): string | undefined {
    return this.#json.tokenOf[id];
  }

  /** True for control tokens such as `<|im_end|>`. */
  isSpecial(id: number): boolean {
    return this.#special.has(id);
  }

  /** The UTF-8 bytes a token stands for, possibly part of a character; none for an id without a token. */
  tokenBytes(id: number): Uint8Array {
    const cached = this.#bytes[id];
    if (cached) return cached;
    const token = this.idToToken(id);
    if (token === undefined) return NO_BYTES;
    const added = this.#added.get(id);
    const bytes = added === undefined ? bytesOfToken(token) : new TextEncoder().encode(added);
    this.#bytes[id] = bytes;
    return bytes;
  }

  /** True if the model folder has a chat template. */
  get hasChatTemplate(): boolean {
    return this.#templates.size > 0;
  }

  /**
   * The prompt of a conversation, through the model's chat template. Encode it with special tokens recognised.
   *
   * @throws ChatTemplateError if there is no template, a message is malformed, or the template refuses the conversation
   */
  renderChat(messages: readonly ChatMessage[], options: RenderOptions = {}): string {
    const tool = options.tools && options.tools.length > 0 ? this.#templates.get("tool_use") : undefined;
    const template = tool ?? this.#templates.get("default");
    if (!template) {
      throw new ChatTemplateError(
        `${this.#dir} has no chat template (tokenizer_config.json or chat_template.jinja); use an Instruct model to chat`,
      );
    }
    return template.render(messages, options);
  }
}

function templatesOf({ chat_template: given }: z.output<typeof configSchema>): { name: string; template: string }[] {
  return typeof given === "string" ? [{ name: "default", template: given }] : (given ?? []);
}

function readTemplates(
  dir: string,
  config: z.output<typeof configSchema>,
  jinja: string | undefined,
): Map<string, ChatTemplate> {
  const { bos_token, eos_token, pad_token, unk_token } = config;
  const variables = { bos_token, eos_token, pad_token, unk_token };
  // As transformers: a file of its own wins over the field; of several templates "default" is the one to chat with.
  if (jinja !== undefined) {
    return new Map([["default", new ChatTemplate(jinja, `${dir}/chat_template.jinja`, variables)]]);
  }
  const file = `${dir}/tokenizer_config.json`;
  return new Map(templatesOf(config).map(({ name, template }) => [name, new ChatTemplate(template, file, variables)]));
}

/**
 * A tokenizer from what `tokenizer.json`, `tokenizer_config.json` and `chat_template.jinja` hold.
 *
 * @param dir what errors call the whole, and the two parts unless they have files of their own
 * @throws ModelFileError as `loadTokenizer`
 */
export function makeTokenizer(
  dir: string,
  parts: { json: unknown; config?: unknown; template?: string; file?: string; configFile?: string },
  options: LoadTokenizerOptions = {},
): Tokenizer {
  return new Tokenizer(
    dir,
    checkTokenizerJson(parts.json, parts.file ?? dir, options.vocabSize),
    checkShape(configSchema, parts.config ?? {}, parts.configFile ?? dir),
    parts.template,
  );
}
