import { chat as askServer, type ChatMessage, CutError, health } from "./api.ts";
import { find, iconButton, make } from "./dom.ts";
import { MarkdownView } from "./markdown.ts";
import { type Answer, type Chat, DEFAULTS, kept, type Settings, type Turn } from "./store.ts";
import { type Language, TEXTS, type Texts } from "./texts.ts";

const log = find("log");
const area = find("scroll");
const empty = find("empty");
const side = find("side");
const shade = find("shade");
const menu = find("menu");
const input = find<HTMLTextAreaElement>("message");
const send = find<HTMLButtonElement>("send");
const stop = find<HTMLButtonElement>("stop");
const adapter = find<HTMLSelectElement>("adapter");
const compare = find<HTMLButtonElement>("compare");
const dialog = find<HTMLDialogElement>("settings");

let language: Language =
  (kept.language() as Language | undefined) ?? (navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en");
if (!(language in TEXTS)) language = "en";
let settings: Settings = kept.settings();
let adapters: readonly string[] = [];
let isComparing = kept.compares();
let chats: Chat[] = kept.chats();
let chat: Chat = newChat();
/** Ends the answers that are coming in. */
let running: AbortController | undefined;
/** The index of the question that is being changed. */
let editing: number | undefined;

function newChat(): Chat {
  return { id: crypto.randomUUID?.() ?? String(Math.random()).slice(2), turns: [] };
}

function texts(): Texts {
  return TEXTS[language];
}

function nameOf(name: string | null): string {
  return name ?? texts().base;
}

// What stands around the conversation

function showTexts(): void {
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  const text = (name: string | undefined): string => texts()[name as keyof Texts];
  for (const node of document.querySelectorAll<HTMLElement>("[data-text]")) node.textContent = text(node.dataset.text);
  for (const node of document.querySelectorAll<HTMLElement>("[data-label]")) node.ariaLabel = text(node.dataset.label);
  for (const node of document.querySelectorAll<HTMLElement>("[data-title]")) {
    node.title = text(node.dataset.title);
    // A button with words of its own keeps them as its name.
    if (!node.querySelector("[data-text]")) node.ariaLabel = node.title;
  }
  input.placeholder = texts().placeholder;
  find("language").textContent = texts().other;
  showAdapters();
}

function showAdapters(): void {
  const { value } = adapter;
  adapter.replaceChildren(...[...adapters, null].map((name) => new Option(nameOf(name), name ?? "")));
  if (adapters.includes(value)) adapter.value = value;
  adapter.hidden = adapters.length === 0;
  compare.hidden = adapters.length === 0;
  find("empty-compare").hidden = adapters.length === 0;
  compare.setAttribute("aria-pressed", String(isComparing));
}

function showSettings(): void {
  document.documentElement.dataset.theme = settings.theme;
  for (const name of Object.keys(DEFAULTS) as (keyof Settings)[]) {
    find<HTMLInputElement>(`s-${name}`).value = String(settings[name]);
  }
  find("o-temperature").textContent = String(settings.temperature);
  find("o-topP").textContent = String(settings.topP);
}

function readSettings(): void {
  const value = (name: keyof Settings): string => find<HTMLInputElement>(`s-${name}`).value;
  settings = {
    system: value("system"),
    temperature: Number(value("temperature")),
    topP: Number(value("topP")),
    maxTokens: value("maxTokens"),
    seed: value("seed"),
    theme: value("theme"),
  };
  kept.keepSettings(settings);
  showSettings();
}

function showSide(isOpen: boolean): void {
  side.hidden = !isOpen;
  shade.hidden = !isOpen;
  // On a phone it lies over the room.
  find("room").inert = isOpen && isNarrow();
  menu.setAttribute("aria-expanded", String(isOpen));
}

function isNarrow(): boolean {
  return matchMedia("(max-width: 44rem)").matches;
}

function showChats(): void {
  find("forget").hidden = chats.length === 0;
  find("chats").replaceChildren(
    ...chats.map((one) => {
      const title = one.turns[0]?.question ?? "";
      const open = make("button", { type: "button", class: "open", title }, make("span", {}, title));
      if (one.id === chat.id) open.setAttribute("aria-current", "true");
      open.addEventListener("click", () => openChat(one));
      const remove = iconButton("delete", texts().delete, () => {
        chats = chats.filter(({ id }) => id !== one.id);
        kept.keepChats(chats);
        if (one.id === chat.id) openChat(newChat());
        else showChats();
        find("side-close").focus();
      });
      return make("li", {}, open, remove);
    }),
  );
}

function openChat(one: Chat): void {
  running?.abort();
  chat = one;
  editing = undefined;
  showChats();
  showChat();
  if (isNarrow()) showSide(false);
  input.focus();
}

/** Keeps the chat as it is now, first in the list. */
function keepChat(): void {
  if (chat.turns.length === 0) return;
  chats = [chat, ...chats.filter(({ id }) => id !== chat.id)];
  kept.keepChats(chats);
  showChats();
}

function showBusy(): void {
  stop.hidden = !running;
  send.hidden = running !== undefined;
  send.disabled = input.value.trim() === "";
}

// The conversation

function showChat(): void {
  log.replaceChildren(...chat.turns.map((turn, i) => turnElement(turn, i)));
  log.classList.toggle(
    "wide",
    chat.turns.some(({ answers }) => answers.length > 1),
  );
  empty.hidden = chat.turns.length > 0;
  showBusy();
}

function turnElement(turn: Turn, index: number): HTMLElement {
  const isTwo = turn.answers.length > 1;
  const answers = turn.answers.map((answer, i) => new AnswerView(answer, { index, place: i, isTwo }).element);
  const asked = editing === index ? editElement(turn, index) : questionElement(turn, index);
  return make("li", { class: "turn" }, asked, make("div", { class: isTwo ? "answers two" : "answers" }, ...answers));
}

function questionElement({ question }: Turn, index: number): HTMLElement {
  const edit = iconButton("edit", texts().edit, () => {
    editing = index;
    showChat();
    const box = log.querySelector<HTMLTextAreaElement>(".asked textarea");
    box?.focus();
    box?.setSelectionRange(box.value.length, box.value.length);
  });
  return make(
    "div",
    { class: "asked" },
    make("div", { class: "user" }, question),
    make("div", { class: "tools" }, edit),
  );
}

function editElement({ question }: Turn, index: number): HTMLElement {
  const box = make("textarea", { "aria-label": texts().edit });
  box.value = question;
  const cancel = make("button", { type: "button", class: "quiet" }, texts().cancel);
  const form = make(
    "form",
    {},
    box,
    make("div", { class: "row" }, cancel, make("button", { class: "primary" }, texts().send)),
  );
  const close = (): void => {
    editing = undefined;
    showChat();
    input.focus();
  };
  const submit = (): void => {
    const changed = box.value.trim();
    if (changed === "") return;
    editing = undefined;
    void ask(changed, index);
  };
  cancel.addEventListener("click", close);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    submit();
  });
  box.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !event.isComposing) {
      event.stopPropagation();
      close();
    } else if (isSending(event)) {
      event.preventDefault();
      submit();
    }
  });
  return make("div", { class: "asked" }, form);
}

/** Views of answers that are coming in. */
const views = new WeakMap<Answer, AnswerView>();

class AnswerView {
  readonly element: HTMLElement;
  readonly #answer: Answer;
  readonly #text = make("div", { class: "assistant" });
  readonly #foot = make("div");
  readonly #markdown: MarkdownView;
  readonly #place: { index: number; place: number; isTwo: boolean };
  #frame = 0;

  constructor(answer: Answer, place: { index: number; place: number; isTwo: boolean }) {
    this.#answer = answer;
    this.#place = place;
    this.#markdown = new MarkdownView(this.#text, { label: () => texts().copy, copy });
    const name = nameOf(answer.adapter);
    const kind = answer.adapter === null ? "answer" : "answer tuned";
    this.element = make("div", { role: "group", class: kind, "aria-label": name });
    if (place.isTwo) this.element.append(make("p", { class: "who" }, name));
    this.element.append(this.#text, this.#foot);
    views.set(answer, this);
    this.show();
  }

  /** Shows the answer as it is now. */
  show(): void {
    const { text, state } = this.#answer;
    const isAtEnd = area.scrollHeight - area.scrollTop - area.clientHeight < 60;
    this.#markdown.show(text);
    this.#text.ariaBusy = String(state === "busy");
    this.#text.hidden = text === "" && state !== "busy";
    this.#foot.replaceChildren(...(state === "busy" ? [] : this.#footer()));
    if (isAtEnd) area.scrollTop = area.scrollHeight;
  }

  /** Shows it with the next frame: pieces come faster than anybody sees. */
  showSoon(): void {
    if (this.#frame !== 0) return;
    this.#frame = requestAnimationFrame(() => {
      this.#frame = 0;
      this.show();
    });
  }

  #footer(): HTMLElement[] {
    const { text, state, error, speed } = this.#answer;
    const parts: HTMLElement[] = [];
    if (state === "stopped") parts.push(make("p", { class: "note" }, texts().stopped));
    if (state === "length") parts.push(make("p", { class: "note" }, texts().length));
    if (state === "error") parts.push(make("p", { class: "error" }, error ?? ""));
    const tools = make("div", { class: "tools" });
    if (text !== "") tools.append(iconButton("copy", texts().copy, () => copy(text)));
    if (this.#place.place === 0) {
      const { index } = this.#place;
      tools.append(iconButton("retry", texts().retry, () => void ask(chat.turns[index].question, index)));
    }
    if (speed) tools.append(make("span", { class: "speed" }, `${speed.toFixed(speed < 10 ? 1 : 0)} ${texts().speed}`));
    return [...parts, tools];
  }
}

function copy(text: string): void {
  const done = (): void => say(texts().copied);
  // Only pages on HTTPS or this machine may write to the clipboard by the new way.
  if (navigator.clipboard) void navigator.clipboard.writeText(text).then(done, () => {});
  else {
    const box = make("textarea", { class: "unseen" });
    box.value = text;
    document.body.append(box);
    box.select();
    document.execCommand("copy");
    box.remove();
    done();
  }
}

function say(text: string): void {
  find("status").textContent = text;
}

/** What was said before a turn, as the one who answers saw it: the other's answers only where there is none of its own. */
function historyBefore(index: number, who: string | null): ChatMessage[] {
  const history: ChatMessage[] =
    settings.system.trim() === "" ? [] : [{ role: "system", content: settings.system.trim() }];
  for (const { question, answers } of chat.turns.slice(0, index)) {
    const said = answers.filter(({ text }) => text !== "");
    const answer = said.find(({ adapter }) => adapter === who) ?? said[0];
    // A question without an answer is left out.
    if (answer) history.push({ role: "user", content: question }, { role: "assistant", content: answer.text });
  }
  return history;
}

/** Asks a question as the turn `index`; later turns go. */
async function ask(question: string, index = chat.turns.length): Promise<void> {
  running?.abort();
  const mine = new AbortController();
  running = mine;
  const chosen = adapter.value === "" ? null : adapter.value;
  const whom = isComparing && adapters.length > 0 ? [null, chosen ?? adapters[0]] : [chosen];
  const answers = whom.map((who): Answer => ({ adapter: who, text: "", state: "busy" }));
  const asked = chat;
  asked.turns = [...asked.turns.slice(0, index), { question, answers }];
  editing = undefined;
  showChat();
  keepChat();
  area.scrollTop = area.scrollHeight;
  say(texts().answering);
  // One request for a key serves both.
  let askedKey: string | null | undefined;
  const askKey = (): string | null => (askedKey ??= prompt(texts().key));
  await Promise.all(answers.map((answer) => receive(answer, { question, index, signal: mine.signal, askKey })));
  if (mine !== running) return;
  running = undefined;
  keepChat();
  showBusy();
  say(texts().answered);
}

async function receive(
  answer: Answer,
  { question, index, ...how }: { question: string; index: number; signal: AbortSignal; askKey: () => string | null },
): Promise<void> {
  let [first, pieces] = [0, 0];
  try {
    const history = historyBefore(index, answer.adapter);
    for await (const event of askServer({ message: question, history, adapter: answer.adapter }, settings, how)) {
      if (event.delta !== undefined) {
        answer.text += event.delta;
        first ||= performance.now();
        pieces++;
        views.get(answer)?.showSoon();
      }
      if (event.finish_reason) answer.state = event.finish_reason === "length" ? "length" : "done";
      const seconds = (performance.now() - first) / 1000;
      // Of a few tokens there is no rate to tell.
      if (event.usage && pieces > 8 && seconds > 0) answer.speed = (event.usage.completion_tokens - 1) / seconds;
    }
    if (answer.state === "busy") answer.state = "done";
  } catch (error) {
    answer.state = how.signal.aborted ? "stopped" : "error";
    if (error instanceof CutError) answer.error = texts().cut;
    else answer.error = error instanceof TypeError ? texts().offline : (error as Error).message;
  }
  views.get(answer)?.show();
}

// What the user does

/** Enter sends, but not while an input method composes Chinese: then it chooses a word. */
function isSending(event: KeyboardEvent): boolean {
  return event.key === "Enter" && !event.shiftKey && !event.isComposing && event.keyCode !== 229;
}

function submit(): void {
  const question = input.value.trim();
  if (question === "" || running) return;
  input.value = "";
  void ask(question);
}

find("form").addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
input.addEventListener("input", showBusy);
input.addEventListener("keydown", (event) => {
  if (isSending(event)) {
    event.preventDefault();
    submit();
  } else if (event.key === "ArrowUp" && input.value === "" && chat.turns.length > 0 && !running) {
    event.preventDefault();
    log.querySelector<HTMLButtonElement>(".turn:last-child .asked button")?.click();
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || event.isComposing || dialog.open) return;
  if (!side.hidden && isNarrow()) {
    showSide(false);
    menu.focus();
  } else running?.abort();
});
stop.addEventListener("click", () => {
  running?.abort();
  input.focus();
});
find("fresh").addEventListener("click", () => openChat(newChat()));
compare.addEventListener("click", () => {
  isComparing = !isComparing;
  kept.keepCompares(isComparing);
  showAdapters();
});
find("language").addEventListener("click", () => {
  language = language === "zh" ? "en" : "zh";
  kept.keepLanguage(language);
  showTexts();
  showChats();
  showChat();
});
menu.addEventListener("click", () => {
  showSide(side.hidden === true);
  if (!side.hidden) find("side-close").focus();
});
for (const id of ["side-close", "shade"]) {
  find(id).addEventListener("click", () => {
    showSide(false);
    menu.focus();
  });
}
find("forget").addEventListener("click", () => {
  if (!confirm(texts().forgetSure)) return;
  chats = [];
  kept.keepChats(chats);
  openChat(newChat());
});
find("settings-open").addEventListener("click", () => {
  showSettings();
  dialog.showModal();
});
dialog.addEventListener("input", readSettings);
dialog.addEventListener("click", (event) => {
  if (event.target === dialog) dialog.close();
});
find("defaults").addEventListener("click", () => {
  settings = { ...DEFAULTS };
  kept.keepSettings(settings);
  showSettings();
});
// Answers that were coming in when the page was left stopped there.
for (const { turns } of chats) {
  for (const { answers } of turns) for (const answer of answers) if (answer.state === "busy") answer.state = "stopped";
}

showSettings();
showTexts();
showChats();
openChat(chat);
try {
  const about = await health();
  adapters = about.adapters;
  find("model").textContent = about.model;
  document.title = about.model;
  showAdapters();
} catch {
  empty.append(make("p", { class: "error" }, texts().offline));
}
