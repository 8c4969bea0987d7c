import type { LooseCalls } from "./loose.ts";
import { longestOverlap } from "./overlap.ts";

/** A call of a tool that the model wrote. */
export interface ToolCall {
  readonly name: string;
  /** JSON. */
  readonly arguments: string;
}

/** Text outside of calls, or a whole call. */
export type Said = { readonly text: string } | { readonly call: ToolCall };

const OPEN = "<tool_call>";
const CLOSE = "</tool_call>";

/**
 * Takes calls of tools out of an answer, as Qwen2.5's chat template asks for them: `<tool_call>{"name", "arguments"}</tool_call>`. Text
 * goes on as it comes, as far as it cannot be the beginning of a call. What stands between the marks and is no call is text. With
 * `loose`, an answer that is nothing but a call without marks is one as well; what may become one waits for its end.
 */
export class ToolCallParser {
  #pending = "";
  #isInside: boolean;
  /** A call was met: white space around it is no text. */
  #isAfterCall = false;
  /** As long as the whole answer may be a call without marks. */
  #loose: LooseCalls | undefined;

  /** @param isInside the prompt has opened a call already */
  constructor(isInside = false, loose?: LooseCalls) {
    this.#isInside = isInside;
    this.#loose = isInside ? undefined : loose;
  }

  /** Adds text of the answer; gives what is certain with it. */
  push(text: string): Said[] {
    this.#pending += text;
    if (this.#loose?.mayBegin(this.#pending)) return [];
    this.#loose = undefined;
    const said: Said[] = [];
    for (;;) {
      const mark = this.#isInside ? CLOSE : OPEN;
      const at = this.#pending.indexOf(mark);
      if (at < 0) break;
      const before = this.#pending.slice(0, at);
      this.#pending = this.#pending.slice(at + mark.length);
      if (this.#isInside) this.#call(before, `${OPEN}${before}${CLOSE}`, said);
      else this.#text(before.replace(/\s+$/, ""), said);
      this.#isInside = !this.#isInside;
    }
    if (this.#isInside) return said;
    // White space may belong to a call that follows.
    const held = longestOverlap(this.#pending, OPEN);
    const free = this.#pending.slice(0, this.#pending.length - held).replace(/\s+$/, "");
    this.#text(free, said);
    this.#pending = this.#pending.slice(free.length);
    return said;
  }

  /** What is left at the answer's end: a call may lack its closing mark. */
  end(): Said[] {
    const call = this.#loose?.read(this.#pending);
    if (call) return [{ call }];
    const said = this.#loose ? this.#pushAll() : [];
    const rest = this.#pending;
    this.#pending = "";
    if (this.#isInside) this.#call(rest, `${OPEN}${rest}`, said);
    else if (!this.#isAfterCall || rest.trim() !== "") this.#text(rest, said);
    return said;
  }

  /** What was held back as a possible call. */
  #pushAll(): Said[] {
    this.#loose = undefined;
    return this.push("");
  }

  #text(text: string, said: Said[]): void {
    const shown = this.#isAfterCall ? text.trimStart() : text;
    if (shown === "") return;
    this.#isAfterCall = false;
    said.push({ text: shown });
  }

  #call(json: string, written: string, said: Said[]): void {
    const call = parseCall(json);
    if (call === undefined) {
      said.push({ text: written });
      return;
    }
    this.#isAfterCall = true;
    said.push({ call });
  }
}

function parseCall(json: string): ToolCall | undefined {
  try {
    const { name, arguments: args = {} } = JSON.parse(json) as Record<string, unknown>;
    if (typeof name !== "string") return undefined;
    // Some models write the arguments as text.
    return { name, arguments: typeof args === "string" ? args : JSON.stringify(args) };
  } catch {
    return undefined;
  }
}
