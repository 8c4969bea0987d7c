import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { rm } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { ModelFileError } from "../errors.ts";
import type { ChatMessage } from "./chat-template.ts";
import { loadTokenizer } from "./load.ts";
import golden from "./testdata/qwen2.5.json" with { type: "json" };
import { tinyTokenizerConfig, tinyTokenizerJson, writeFolder } from "./testdata/tiny.ts";
import type { Tokenizer } from "./tokenizer.ts";

const folders: string[] = [];
afterAll(() => Promise.all(folders.map((dir) => rm(dir, { recursive: true }))));

async function folder(files: Record<string, unknown>): Promise<string> {
  const dir = await writeFolder(files);
  folders.push(dir);
  return dir;
}

async function tiny(config: Record<string, unknown> = {}, more: Record<string, unknown> = {}): Promise<Tokenizer> {
  return loadTokenizer(
    await folder({
      "tokenizer.json": tinyTokenizerJson(),
      "tokenizer_config.json": { ...tinyTokenizerConfig, ...config },
      ...more,
    }),
  );
}

const realDir = join(process.env.QWEN_REAL_MODEL ?? join(homedir(), ".cache", "qwen-real"), "hf");
const haveReal = existsSync(join(realDir, "tokenizer.json"));

describe.skipIf(!haveReal)("Qwen2.5's own tokenizer (skipped when no real weights are there)", () => {
  let tokenizer: Tokenizer;
  beforeAll(async () => {
    tokenizer = await loadTokenizer(realDir, { vocabSize: 151936 });
  });

  test("ids are those of Hugging Face's tokenizers", () => {
    for (const { text, ids } of golden.tokenize) expect(tokenizer.encode(text)).toEqual(ids);
  });

  test("with control tokens taken as text, too", () => {
    for (const { text, plain } of golden.tokenize) {
      if (plain) expect(tokenizer.encode(text, { specialTokens: false })).toEqual(plain);
    }
  });

  test("decoding gives the text back", () => {
    for (const { text, ids } of golden.tokenize) expect(tokenizer.decode(ids)).toBe(text.normalize("NFC"));
  });

  test("prompts are those of transformers, with and without tools", () => {
    for (const { messages, prompt, tools, addGenerationPrompt } of golden.chat) {
      expect(tokenizer.renderChat(messages as ChatMessage[], { tools, addGenerationPrompt })).toBe(prompt);
    }
  });

  test("token look-ups; the padded rows of the embedding have no token", () => {
    expect(tokenizer.size).toBe(151665);
    expect(tokenizer.eosTokenId).toBe(151645);
    expect(tokenizer.padTokenId).toBe(151643);
    expect(tokenizer.bosTokenId).toBeUndefined();
    expect(tokenizer.tokenToId("Ġworld")).toBe(1879);
    expect(tokenizer.idToToken(1879)).toBe("Ġworld");
    expect(tokenizer.idToToken(151935)).toBeUndefined();
    expect(tokenizer.decode([14990, 151935, 1879])).toBe("hello world");
    expect(tokenizer.isSpecial(151645)).toBe(true);
    expect(tokenizer.isSpecial(151657)).toBe(false); // <tool_call> is added, not special
  });
});

describe("encode and decode", () => {
  let tokenizer: Tokenizer;
  beforeAll(async () => {
    tokenizer = await tiny();
  });

  test("control tokens are recognised, or taken as text", () => {
    const end = tokenizer.tokenToId("<|im_end|>")!;
    expect(tokenizer.encode("hello<|im_end|>")).toEqual([tokenizer.tokenToId("hello")!, end]);
    const plain = tokenizer.encode("hello<|im_end|><tool_call>", { specialTokens: false });
    expect(plain).not.toContain(end);
    expect(Math.max(...plain)).toBeLessThan(tokenizer.tokenToId("<|endoftext|>")!);
    expect(tokenizer.decode(plain)).toBe("hello<|im_end|><tool_call>");
  });

  test("any text comes back, normalised to NFC, without a control token in it if none is allowed", () => {
    const text = fc.string({ unit: "grapheme", maxLength: 60 });
    fc.assert(
      fc.property(text, fc.boolean(), (text, specialTokens) => {
        const ids = tokenizer.encode(text, { specialTokens });
        expect(tokenizer.decode(ids)).toBe(text.normalize("NFC"));
      }),
      { numRuns: 300 },
    );
  });

  test("half of a surrogate pair becomes U+FFFD, as in every UTF-8 encoder", () => {
    expect(tokenizer.decode(tokenizer.encode("a\ud83dz"))).toBe("a\ufffdz");
  });

  test("decode leaves control tokens out on request, and refuses what is no id", () => {
    const ids = tokenizer.encode("<|im_start|>hello<tool_call><|im_end|>");
    expect(tokenizer.decode(ids, { skipSpecialTokens: true })).toBe("hello<tool_call>");
    expect(tokenizer.decode([])).toBe("");
    expect(tokenizer.decode([99999])).toBe("");
    for (const bad of [-1, 1.5, Number.NaN]) expect(() => tokenizer.decode([104, bad])).toThrow("position 1");
  });

  test("tokens added in tokenizer_config.json as special count as special", async () => {
    const other = await tiny({ additional_special_tokens: ["<tool_call>", { content: "<|im_end|>" }] });
    expect(other.isSpecial(other.tokenToId("<tool_call>")!)).toBe(true);
    expect(other.decode(other.encode("hello<tool_call>"), { skipSpecialTokens: true })).toBe("hello");
  });

  test("merges may be written as pairs", async () => {
    const json = tinyTokenizerJson();
    json.model.merges = json.model.merges.map((merge) => (merge as string).split(" "));
    const pairs = await loadTokenizer(await folder({ "tokenizer.json": json }));
    expect(pairs.encode("hello中文")).toEqual(tokenizer.encode("hello中文"));
    expect(pairs.eosTokenId).toBeUndefined();
    expect(pairs.hasChatTemplate).toBe(false);
  });
});

describe("hostile and broken files", () => {
  type Json = ReturnType<typeof tinyTokenizerJson>;
  const cases: [string, string, string, (json: Json) => unknown][] = [
    ["not an object", "", "must be a JSON object", () => [1]],
    ["no model", "model", "must be an object", (json) => ({ ...json, model: undefined })],
    ["another model", "model.type", '"Unigram"', (json) => ({ ...json, model: { ...json.model, type: "Unigram" } })],
    ["no merges", "model.merges", "incomplete", (json) => ({ ...json, model: { ...json.model, merges: undefined } })],
    [
      "vocabulary as a list",
      "model.vocab",
      "must be an object",
      (json) => ({ ...json, model: { ...json.model, vocab: ["a"] } }),
    ],
    [
      "an id that is text",
      'model.vocab["he"]',
      "no token id",
      (json) => {
        (json.model.vocab as Record<string, unknown>).he = "256";
        return json;
      },
    ],
    [
      "an id that is huge",
      'model.vocab["he"]',
      "beyond",
      (json) => {
        json.model.vocab.he = 2 ** 40;
        return json;
      },
    ],
    [
      "two tokens with one id",
      'model.vocab["hell"]',
      "has id 256",
      (json) => {
        json.model.vocab.hell = 256;
        return json;
      },
    ],
    [
      "a byte without a token",
      "model.vocab",
      "no token for byte 0x21",
      (json) => {
        delete json.model.vocab["!"];
        return json;
      },
    ],
    [
      "a token outside the byte alphabet",
      'model.vocab["中"]',
      "byte-level",
      (json) => {
        json.model.vocab.中 = 1000;
        return json;
      },
    ],
    [
      "a merge of unknown tokens",
      "model.merges[8]",
      "not in the vocabulary",
      (json) => {
        json.model.merges.push("he x");
        return json;
      },
    ],
    [
      "a merge that is no pair",
      "model.merges[0]",
      "two tokens",
      (json) => {
        json.model.merges[0] = 7;
        return json;
      },
    ],
    [
      "an added token with another's id",
      "added_tokens[0].id",
      "already",
      (json) => {
        json.added_tokens[0]!.id = 3;
        return json;
      },
    ],
    [
      "an added token listed twice",
      "added_tokens",
      "twice",
      (json) => {
        json.added_tokens[1]!.content = "<|im_end|>";
        return json;
      },
    ],
    [
      "an empty added token",
      "added_tokens.0.content",
      "empty",
      (json) => {
        json.added_tokens[0]!.content = "";
        return json;
      },
    ],
    ["an unknown decoder", "decoder.type", '"Evil"', (json) => ({ ...json, decoder: { type: "Evil" } })],
    ["no pre-tokenizer", "pre_tokenizer", "must be an object", (json) => ({ ...json, pre_tokenizer: null })],
    [
      "a pattern of a megabyte",
      "pre_tokenizer.pretokenizers.0.pattern.Regex",
      "4096",
      (json) => {
        (json.pre_tokenizer.pretokenizers[0] as { pattern: { Regex: string } }).pattern.Regex = "a".repeat(1 << 20);
        return json;
      },
    ],
    [
      "a pattern that does not compile",
      "",
      "cannot be used",
      (json) => {
        (json.pre_tokenizer.pretokenizers[0] as { pattern: { Regex: string } }).pattern.Regex = "(";
        return json;
      },
    ],
  ];

  test.each(cases)("%s", async (_, field, says, change) => {
    const dir = await folder({ "tokenizer.json": change(tinyTokenizerJson()) });
    const error = await loadTokenizer(dir).then(
      () => undefined,
      (error) => error,
    );
    expect(error).toBeInstanceOf(ModelFileError);
    expect(error.message).toStartWith(join(dir, "tokenizer.json"));
    expect(error.message).toContain(says);
    expect(error.field ?? "").toBe(field);
  });

  test("a vocabulary larger than the model's", async () => {
    const dir = await folder({ "tokenizer.json": tinyTokenizerJson() });
    await expect(loadTokenizer(dir, { vocabSize: 260 })).rejects.toThrow("beyond the model's vocabulary of 260");
    expect((await loadTokenizer(dir, { vocabSize: 268 })).size).toBe(268);
  });

  test("a name that is special in JavaScript is only a name", async () => {
    const text = JSON.stringify(tinyTokenizerJson()).replace('"he":', '"__proto__":{"x":1},"he":');
    await expect(loadTokenizer(await folder({ "tokenizer.json": text }))).rejects.toThrow('model.vocab["__proto__"]');
  });

  test("missing, not JSON, too large, wrong types beside it", async () => {
    await expect(loadTokenizer(await folder({}))).rejects.toThrow("tokenizer.json: does not exist");
    await expect(loadTokenizer(await folder({ "tokenizer.json": "{" }))).rejects.toThrow("is not valid JSON");
    const large = await folder({ "tokenizer.json": tinyTokenizerJson(), "tokenizer_config.json": " ".repeat(5 << 20) });
    await expect(loadTokenizer(large)).rejects.toThrow("tokenizer_config.json: has 5242880 bytes");
    await expect(tiny({ eos_token: 5 })).rejects.toThrow("tokenizer_config.json: eos_token: must be a token");
    await expect(tiny({ eos_token: "<eos>" })).rejects.toThrow('eos_token: "<eos>" is not a token of tokenizer.json');
    await expect(tiny({ chat_template: 5 })).rejects.toThrow("chat_template: must be a template");
  });
});

describe("chat templates of a folder", () => {
  const messages = [{ role: "user", content: "你好" }];

  test("in tokenizer_config.json", async () => {
    const tokenizer = await tiny();
    expect(tokenizer.renderChat(messages)).toBe("<|im_start|>user\n你好<|im_end|>\n<|im_start|>assistant\n");
    expect(tokenizer.renderChat(messages, { addGenerationPrompt: false })).toBe("<|im_start|>user\n你好<|im_end|>\n");
  });

  test("chat_template.jinja wins", async () => {
    const tokenizer = await tiny({}, { "chat_template.jinja": "{{ messages[0].content }}{{ eos_token }}" });
    expect(tokenizer.renderChat(messages)).toBe("你好<|im_end|>");
  });

  test("of several, tool_use is taken when there are tools", async () => {
    const tokenizer = await tiny({
      chat_template: [
        { name: "default", template: "plain" },
        { name: "tool_use", template: "{{ tools | length }} tools" },
      ],
    });
    expect(tokenizer.renderChat(messages)).toBe("plain");
    expect(tokenizer.renderChat(messages as ChatMessage[], { tools: [{ type: "function" }] })).toBe("1 tools");
  });

  test("none, or one that is not Jinja", async () => {
    const tokenizer = await tiny({ chat_template: null });
    expect(() => tokenizer.renderChat(messages)).toThrow("has no chat template");
    await expect(tiny({ chat_template: "{% for %}" })).rejects.toThrow("chat_template: is not a valid Jinja template");
    await expect(tiny({ chat_template: "x".repeat(300000) })).rejects.toThrow("at most 262144");
  });
});
