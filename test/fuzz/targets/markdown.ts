import { MarkdownView } from "../../../apps/server/src/page/client/markdown.ts";
import { check, type FuzzTarget, textOf } from "../target.ts";

/** As much of a page as the view needs: elements that remember what they are. */
class FakeElement {
  readonly tag: string;
  readonly attributes = new Map<string, string>();
  readonly childNodes: (FakeElement | string)[] = [];
  constructor(tag: string) {
    this.tag = tag;
  }
  setAttribute(name: string, value: string): void {
    this.attributes.set(name, value);
  }
  append(...children: (FakeElement | string)[]): void {
    this.childNodes.push(...children);
  }
  addEventListener(): void {}
}

const TAGS =
  /^(?:h[2-6]|p|span|blockquote|hr|li|ol|ul|div|pre|code|tr|th|td|thead|tbody|table|strong|em|del|br|a|button|svg|use)$/;

/** What a model writes, shown in the page: known elements only, links to the web and to mail only. */
export const target: FuzzTarget = {
  words: [
    "# ",
    "> ",
    "- ",
    "1. ",
    "```",
    "| a |\n|---|\n",
    "**",
    "_",
    "~~",
    "[a](",
    "![a](",
    "<b>",
    "javascript:",
    "&#x6a;",
    "- [x] ",
  ],
  maxLength: 1024,
  seeds: () => [
    '# Title\n\nText **bold** _em_ `code` [link](https://example.com "t") <b>no tag</b>\n\n- a\n  1. b\n- [x] c\n',
    "| a | b |\n|---|:-:|\n| 1 | ~~2~~ |\n\n```js\nlet x;\n```\n\n> quote\n> > more\n\n---\n",
    "[x](javascript:alert(1)) ![i](data:image/png;base64,x) <https://a.b> a@b.c\n[r]: mailto:a@b.c\n[r] \\* &lt;\n",
  ],
  fuzz(data) {
    const text = textOf(data);
    const make = (tag: string): FakeElement => new FakeElement(tag);
    const page = { document: { createElement: make, createElementNS: (_: string, tag: string) => make(tag) } };
    const root = make("root");
    Object.assign(globalThis, page);
    try {
      new MarkdownView(root as unknown as HTMLElement, { label: () => "copy", copy() {} }).show(text);
    } finally {
      // gpu.js takes a page that stays for a browser's.
      Reflect.deleteProperty(globalThis, "document");
    }
    const look = (node: FakeElement | string): void => {
      if (typeof node === "string") return;
      check(node === root || TAGS.test(node.tag), () => `an element ${node.tag}`);
      for (const [name, value] of node.attributes) {
        check(
          /^(?:class|tabindex|start|href|target|rel|type|title|aria-label)$/.test(name),
          () => `an attribute ${name}`,
        );
        const isSafe = name !== "href" || /^(?:https?:\/\/|mailto:|#i-copy$)/i.test(value);
        check(isSafe, () => `a link to ${value}`);
      }
      node.childNodes.forEach(look);
    };
    look(root);
  },
};
