import { describe, expect, test } from "bun:test";
import { type ChatMessage, ChatTemplate, ChatTemplateError, type RenderLimits } from "./chat-template.ts";

const user: ChatMessage[] = [{ role: "user", content: "hi" }];
const render = (source: string, messages = user, limits: RenderLimits = {}) =>
  new ChatTemplate(source, "chat_template.jinja").render(messages, {}, limits);

describe("conversations", () => {
  test.each<[string, unknown]>([
    ["none", []],
    ["no list", "hi"],
    ["no role", [{ content: "hi" }]],
    ["an empty role", [{ role: "", content: "hi" }]],
    ["no content", [{ role: "user" }]],
    ["content that is a number", [{ role: "user", content: 5 }]],
    ["null", [null]],
  ])("%s: refused before the template sees it", (_, messages) => {
    expect(() => render("x", messages as ChatMessage[])).toThrow(ChatTemplateError);
  });

  test("a call of a tool needs no content", () => {
    const call: ChatMessage = {
      role: "assistant",
      content: null,
      tool_calls: [{ type: "function", function: { name: "f", arguments: { x: 1 } } }],
    };
    expect(render("{{ messages[0].tool_calls[0].function.arguments | tojson }}", [call])).toBe('{"x": 1}');
  });
});

describe("what goes wrong in a template", () => {
  test("raise_exception's own words come through", () => {
    expect(() => render("{{ raise_exception('roles must alternate') }}")).toThrow(
      "the chat template of chat_template.jinja cannot render this conversation: roles must alternate",
    );
  });

  test.each(["{{ messages[0].content.nothing() }}", "{{ unknown() }}", "{{ 1 + none }}", "{{ messages | evil }}"])(
    "%s",
    (source) => {
      expect(() => render(source)).toThrow(ChatTemplateError);
    },
  );

  test("a template cannot reach JavaScript", () => {
    expect(() => render("{{ raise_exception.constructor('return 1')() }}")).toThrow(ChatTemplateError);
    expect(() => render("{{ messages.__proto__.x() }}")).toThrow(ChatTemplateError);
    expect(render("{{ messages[0].__proto__ }}{{ messages[0].constructor }}")).not.toContain("function");
  });
});

describe("bounds", () => {
  test.each([
    [
      "loops in loops",
      "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}",
      "steps",
    ],
    [
      "filtered loops in loops",
      "{% for a in range(9999) if a %}{% for b in range(9999) if false %}{% endfor %}{% endfor %}",
      "steps",
    ],
    ["a long range", "{% for a in range(1000000000000) %}{% endfor %}", "range()"],
    [
      "a text that doubles",
      "{% set n = namespace(s='xxxxxxxx') %}{% for a in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
      "characters",
    ],
    [
      "a list that doubles",
      "{% set n = namespace(s=[1,2,3,4]) %}{% for a in range(60) %}{% set n.s = n.s + n.s %}{% endfor %}",
      "list",
    ],
    ["a macro that calls itself", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "nested"],
  ])("%s", (_, source, says) => {
    expect(() => render(source, user, { steps: 50_000 })).toThrow(says);
  });

  test("a loop that continues many times is no deep nesting", () => {
    expect(render("{% for a in range(2000) %}{% if a < 1999 %}{% continue %}{% endif %}{{ a }}{% endfor %}")).toBe(
      "1999",
    );
  });

  test("range() is Python's", () => {
    expect(
      render("{{ range(3) | join(',') }} {{ range(2, 8, 3) | join(',') }} {{ range(3, 0, -1) | join(',') }}"),
    ).toBe("0,1,2 2,5 3,2,1");
  });

  test("limits can be tightened by the caller", () => {
    const template = new ChatTemplate("{% for m in messages %}{{ m.content }}{% endfor %}", "t");
    const long = Array.from({ length: 500 }, () => ({ role: "user", content: "0123456789" }));
    expect(template.render(long)).toHaveLength(5000);
    expect(() => template.render(long, {}, { steps: 100 })).toThrow("more than 100 steps");
    expect(() => template.render(long, {}, { milliseconds: -1 })).toThrow("more than -1 ms");
    expect(() => template.render(long, {}, { characters: 999 })).toThrow("more than 999 characters");
  });
});
