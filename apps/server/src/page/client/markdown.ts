import { lexer, type Token, type Tokens } from "marked";
import { iconButton, make } from "./dom.ts";

/**
 * Shows Markdown as elements. They are made one by one from the parser's tokens and no text is ever read as HTML, so there
 * is nothing to sanitise: a tag is shown as it is written, and links lead to the web or to mail only.
 */
export class MarkdownView {
  readonly #target: HTMLElement;
  readonly #copy: { label: () => string; copy: (text: string) => void };
  #shown: string[] = [];

  constructor(target: HTMLElement, copy: { label: () => string; copy: (text: string) => void }) {
    this.#target = target;
    this.#copy = copy;
  }

  /** Shows a text; blocks that are as they were stay, so that a long answer costs little while it comes in. */
  show(text: string): void {
    const blocks = lexer(text).filter((token) => token.type !== "space" && token.type !== "def");
    let same = 0;
    while (same < blocks.length && this.#shown[same] === blocks[same].raw) same++;
    while (this.#target.childNodes.length > same) this.#target.lastChild!.remove();
    for (const block of blocks.slice(same)) this.#target.append(this.#block(block));
    this.#shown = blocks.map((block) => block.raw);
  }

  #blocks(tokens: readonly Token[]): Node[] {
    return tokens.filter((token) => token.type !== "space" && token.type !== "def").map((token) => this.#block(token));
  }

  #block(token: Token): Node {
    switch (token.type) {
      case "heading":
        // The first heading is the page's own.
        return make(`h${Math.max(2, (token as Tokens.Heading).depth)}` as "h2", {}, ...inline(token.tokens));
      case "paragraph":
        return make("p", {}, ...inline(token.tokens));
      case "text":
        return make("span", {}, ...inline(token.tokens ?? [token]));
      case "code":
        return this.#code(token as Tokens.Code);
      case "blockquote":
        return make("blockquote", {}, ...this.#blocks(token.tokens ?? []));
      case "list":
        return this.#list(token as Tokens.List);
      case "table":
        return table(token as Tokens.Table);
      case "hr":
        return make("hr");
      default:
        return make("p", {}, token.raw.trimEnd());
    }
  }

  #list({ ordered, start, items }: Tokens.List): HTMLElement {
    const children = items.map((item) => {
      const box = item.task ? [`${item.checked ? "☑" : "☐"} `] : [];
      const parts = item.tokens.filter((part) => part.type !== "checkbox");
      return make("li", {}, ...box, ...this.#blocks(parts));
    });
    return ordered
      ? make("ol", typeof start === "number" && start !== 1 ? { start: String(start) } : {}, ...children)
      : make("ul", {}, ...children);
  }

  #code({ text, lang }: Tokens.Code): HTMLElement {
    const head = make("div", { class: "block-head" }, make("span", {}, (lang ?? "").split(/\s/)[0].slice(0, 30)));
    head.append(iconButton("copy", this.#copy.label(), () => this.#copy.copy(text)));
    return make("div", { class: "block" }, head, make("pre", { tabindex: "0" }, make("code", {}, text)));
  }
}

function table({ header, rows }: Tokens.Table): HTMLElement {
  const row = (tag: "th" | "td", cells: readonly Tokens.TableCell[]): HTMLElement =>
    make("tr", {}, ...cells.map((cell) => make(tag, {}, ...inline(cell.tokens))));
  const body = make("tbody", {}, ...rows.map((cells) => row("td", cells)));
  const whole = make("table", {}, make("thead", {}, row("th", header)), body);
  return make("div", { class: "scrolls", tabindex: "0" }, whole);
}

function inline(tokens: readonly Token[] | undefined): (Node | string)[] {
  return (tokens ?? []).map((token) => {
    switch (token.type) {
      case "strong":
        return make("strong", {}, ...inline(token.tokens));
      case "em":
        return make("em", {}, ...inline(token.tokens));
      case "del":
        return make("del", {}, ...inline(token.tokens));
      case "codespan":
        return make("code", {}, (token as Tokens.Codespan).text);
      case "br":
        return make("br");
      case "link": {
        const { href } = token as Tokens.Link;
        if (!/^(?:https?:\/\/|mailto:)/i.test(href)) return token.raw;
        return make("a", { href, target: "_blank", rel: "noopener noreferrer nofollow" }, ...inline(token.tokens));
      }
      // Nothing is loaded from elsewhere, so an image is its text.
      case "image":
        return token.raw;
      case "escape":
        return (token as Tokens.Escape).text;
      case "text":
        return token.tokens ? make("span", {}, ...inline(token.tokens)) : (token as Tokens.Text).text;
      default:
        return token.raw;
    }
  });
}
