import { Environment, Interpreter, Template } from "@huggingface/jinja";
import { ModelFileError } from "../errors.ts";

/** A call of a tool, as an assistant's message carries it. */
export interface ToolCall {
  readonly type?: "function";
  readonly id?: string;
  readonly function: { readonly name: string; readonly arguments: Readonly<Record<string, unknown>> | string };
}

/** One message of a conversation, as in OpenAI's and transformers' interfaces. */
export interface ChatMessage {
  readonly role: string;
  readonly content?: string | null;
  readonly tool_calls?: readonly ToolCall[];
  readonly name?: string;
}

export interface RenderOptions {
  /** End with the beginning of the assistant's answer. Default true. */
  addGenerationPrompt?: boolean;
  /** JSON schemas of functions the model may call, as in OpenAI's interface. */
  tools?: readonly Readonly<Record<string, unknown>>[];
}

/** A chat template cannot be read, or failed on a conversation. */
export class ChatTemplateError extends Error {
  override readonly name = "ChatTemplateError";
}

const MAX_TEMPLATE = 1 << 18;
const MAX_RANGE = 10_000;
const MAX_LIST = 100_000;
const MAX_DEPTH = 500;

/** What one rendering may use. */
export interface RenderLimits {
  /** Evaluated expressions, statements and turns of loops. Default 1,000,000: a long conversation takes some thousands. */
  steps?: number;
  /** Milliseconds, looked at between steps. Default 10,000: a long conversation takes some ten. */
  milliseconds?: number;
  /** Characters of the prompt, and of any text on the way to it. Default 16 Mi. */
  characters?: number;
}

type Node = NonNullable<Parameters<Interpreter["evaluate"]>[0]>;

/** The library's interpreter, which has no limits of its own: a template comes with a download and could loop for days. */
class BoundedInterpreter extends Interpreter {
  readonly #limits: Required<RenderLimits>;
  readonly #deadline: number;
  readonly #iterables = new WeakSet<object>();
  #steps = 0;
  #depth = 0;

  constructor(environment: Environment, limits: Required<RenderLimits>) {
    super(environment);
    this.#limits = limits;
    this.#deadline = performance.now() + limits.milliseconds;
  }

  override evaluate(...args: Parameters<Interpreter["evaluate"]>): ReturnType<Interpreter["evaluate"]> {
    const node = args[0];
    this.#count(1);
    // A loop with an empty body evaluates nothing, so its turns are counted when its list is known.
    if (node?.type === "For") {
      const { iterable } = node as Node & { iterable: Node & { lhs?: Node } };
      this.#iterables.add(iterable.type === "SelectExpression" ? iterable.lhs! : iterable);
    }
    if (++this.#depth > MAX_DEPTH) throw new Error(`it is nested more than ${MAX_DEPTH} deep`);
    let result: ReturnType<Interpreter["evaluate"]>;
    try {
      result = super.evaluate(...args);
    } finally {
      this.#depth--; // also when a loop's `continue` passes, which the library throws
    }
    const value: unknown = result.value;
    if (typeof value === "string" && value.length > this.#limits.characters) {
      throw new Error(`it made a text of more than ${this.#limits.characters} characters`);
    }
    if (Array.isArray(value)) {
      if (value.length > MAX_LIST) throw new Error(`it made a list of more than ${MAX_LIST}`);
      if (node && this.#iterables.has(node)) this.#count(value.length);
    }
    return result;
  }

  #count(steps: number): void {
    this.#steps += steps;
    if (this.#steps > this.#limits.steps) throw new Error(`it took more than ${this.#limits.steps} steps`);
    if (performance.now() > this.#deadline) throw new Error(`it took more than ${this.#limits.milliseconds} ms`);
  }
}

function range(start: number, stop?: number, step = 1): number[] {
  const [from, to] = stop === undefined ? [0, start] : [start, stop];
  if (step === 0) throw new Error("range() step must not be 0");
  const count = Math.max(0, Math.ceil((to - from) / step));
  if (!(count <= MAX_RANGE)) throw new Error(`range() of more than ${MAX_RANGE} numbers`);
  return Array.from({ length: count }, (_, i) => from + i * step);
}

/**
 * A model's chat template (Jinja, as transformers writes it): turns a conversation into the prompt the model was trained on.
 */
export class ChatTemplate {
  readonly #template: Template;
  readonly #file: string;
  readonly #variables: Readonly<Record<string, unknown>>;

  /**
   * @param source the template's text
   * @param file where it comes from, for errors
   * @param variables what the template sees besides the conversation, such as `eos_token`
   * @throws ModelFileError if the template is too long or is not valid Jinja
   */
  constructor(source: string, file: string, variables: Readonly<Record<string, unknown>> = {}) {
    if (source.length > MAX_TEMPLATE) {
      throw new ModelFileError(file, `has ${source.length} characters; at most ${MAX_TEMPLATE} are accepted`, {
        field: "chat_template",
      });
    }
    try {
      this.#template = new Template(source);
    } catch (error) {
      throw new ModelFileError(file, `is not a valid Jinja template: ${(error as Error).message}`, {
        field: "chat_template",
        cause: error,
      });
    }
    this.#file = file;
    this.#variables = variables;
  }

  /**
   * Renders a conversation, the oldest message first.
   *
   * @throws ChatTemplateError if a message is malformed, the template refuses the conversation, or a limit is passed
   */
  render(messages: readonly ChatMessage[], options: RenderOptions = {}, limits: RenderLimits = {}): string {
    checkMessages(messages);
    const environment = new Environment();
    const globals: Record<string, unknown> = {
      ...this.#variables,
      true: true,
      True: true,
      false: false,
      False: false,
      none: null,
      None: null,
      range,
      raise_exception: (message: unknown) => {
        throw new Error(String(message));
      },
      messages,
      tools: options.tools && options.tools.length > 0 ? options.tools : null,
      add_generation_prompt: options.addGenerationPrompt ?? true,
    };
    try {
      for (const [name, value] of Object.entries(globals)) environment.set(name, value);
      const interpreter = new BoundedInterpreter(environment, {
        steps: limits.steps ?? 1_000_000,
        milliseconds: limits.milliseconds ?? 10_000,
        characters: limits.characters ?? 1 << 24,
      });
      return String(interpreter.run(this.#template.parsed).value);
    } catch (error) {
      throw new ChatTemplateError(
        `the chat template of ${this.#file} cannot render this conversation: ${(error as Error).message}`,
        { cause: error },
      );
    }
  }
}

function checkMessages(messages: readonly ChatMessage[]): void {
  if (!Array.isArray(messages) || messages.length === 0) {
    throw new ChatTemplateError("a conversation needs at least one message {role, content}");
  }
  messages.forEach((message: unknown, i) => {
    const { role, content, tool_calls: calls } = (message ?? {}) as Record<string, unknown>;
    if (typeof role !== "string" || role === "") {
      throw new ChatTemplateError(`messages[${i}].role must be a text such as "user"`);
    }
    if (typeof content !== "string" && !(content == null && Array.isArray(calls) && calls.length > 0)) {
      throw new ChatTemplateError(`messages[${i}].content must be a text`);
    }
  });
}
