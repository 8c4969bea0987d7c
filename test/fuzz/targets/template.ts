import { ChatTemplate, ChatTemplateError, ModelFileError } from "../../../packages/qwen/src/index.ts";
import { tinyTokenizerConfig } from "../../../packages/qwen/src/tokenizer/testdata/tiny.ts";
import { allowing, type FuzzTarget, partsOf } from "../target.ts";

const TOOLS = [{ type: "function", function: { name: "f", parameters: { type: "object", properties: {} } } }];

/** Chat templates, which come with a model's download, and what people write into a conversation. */
export const target: FuzzTarget = {
  words: [
    ...[
      "{%",
      "%}",
      "{{",
      "}}",
      "for ",
      " in ",
      "if ",
      "endfor",
      "endif",
      "set ",
      "macro ",
      "endmacro",
      "range(",
      "loop.",
    ],
    ...[
      "messages",
      "message.content",
      "namespace(",
      "| tojson",
      "| join",
      "| replace(",
      "raise_exception(",
      "~ ",
      "is defined",
    ],
  ],
  seeds: () =>
    [
      [tinyTokenizerConfig.chat_template, "hello"],
      ["{% set ns = namespace(n=0) %}{% for i in range(3) %}{% set ns.n = ns.n + i %}{{ ns.n }}{% endfor %}", ""],
      ["{% macro m(x) %}{{ x | tojson }}{% endmacro %}{{ m(tools) }}{{ messages[0]['content'][1:] | trim }}", "a\nb"],
      ["{% if messages | length > 1 and not tools is none %}{{ raise_exception('no') }}{% endif %}{{ 'x' * 3 }}", "{{"],
      ["{{ messages | map(attribute='role') | join(', ') }}{{ 'a,b'.split(',') | first }}{{ 7 // 2 ~ 'x' }}", "x"],
    ].map((parts) => parts.join("\0")),
  fuzz(data) {
    const [source, content] = partsOf(data, 2);
    const template = allowing([ModelFileError], () => new ChatTemplate(source, "template"));
    const messages = [
      { role: "user", content },
      { role: "assistant", content: "fine" },
    ];
    const limits = { steps: 20_000, milliseconds: 1000, characters: 1 << 20 };
    allowing([ChatTemplateError], () => template?.render(messages, { tools: TOOLS }, limits));
  },
};
