export function find<T extends Element = HTMLElement>(id: string): T {
  return document.getElementById(id) as unknown as T;
}

/** An element; its children are elements or texts, never markup. */
export function make<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Readonly<Record<string, string>> = {},
  ...children: (Node | string)[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

/** A button that shows one of the page's icons. */
export function iconButton(icon: string, title: string, onClick: () => void): HTMLButtonElement {
  const svg = document.createElementNS(SVG, "svg");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#i-${icon}`);
  svg.append(use);
  const button = make("button", { type: "button", class: "icon", title, "aria-label": title });
  button.append(svg);
  button.addEventListener("click", onClick);
  return button;
}
