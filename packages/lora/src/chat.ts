import { LoraError } from "./errors.ts";

/** One message of a conversation. */
export interface ChatMessage {
  readonly role: string;
  readonly content: string;
  /** Of an assistant's message: 0 keeps it as context that carries no loss. Default 1. */
  readonly weight?: 0 | 1;
}

/** A conversation to train on, the oldest message first. */
export interface Conversation {
  readonly messages: readonly ChatMessage[];
}

/** What is needed of a tokenizer to lay out conversations. */
export interface ChatTokenizer {
  /** The conversation through the model's chat template, with the beginning of an answer at its end where asked for. */
  renderChat(
    messages: readonly { readonly role: string; readonly content: string }[],
    options: { readonly addGenerationPrompt: boolean },
  ): string;
  /** Token ids; with `specialTokens` false, control tokens in the text are the characters they are written with. */
  encode(text: string, options?: { readonly specialTokens?: boolean }): readonly number[];
  isSpecial(id: number): boolean;
}

/** Where an answer stands among the tokens: its text and the end token. */
export interface AnswerSpan {
  readonly start: number;
  /** Behind the end token. */
  readonly end: number;
  /** Is it to be learned, not only context? */
  readonly isLearned: boolean;
}

export interface EncodedConversation {
  readonly tokens: number[];
  /** The assistant's messages, in order. */
  readonly answers: AnswerSpan[];
}

/** A model's chat template that conversations cannot be trained through. */
export class ChatTemplateMismatchError extends LoraError {
  override readonly name = "ChatTemplateMismatchError";
}

/** A piece of a rendered conversation: text of the template's own, or of a message. */
interface Piece {
  readonly text: string;
  /** Index of the message; undefined for the template's own text. */
  readonly message: number | undefined;
}

const ASSISTANT = "assistant";

/**
 * Tokens of a conversation through the model's chat template, and where the assistant's answers stand among them. An answer
 * is tokenised on its own, between the prompt that asks for it and the end token: exactly what generation meets and
 * must give. A control token that is written in a message is text, so that a message cannot end itself.
 *
 * @throws ChatTemplateMismatchError when the template changes a message's text, or ends no answer with the end token
 */
export function encodeConversation(
  messages: readonly ChatMessage[],
  tokenizer: ChatTokenizer,
  endTokenId: number,
): EncodedConversation {
  const tokens: number[] = [];
  const answers: AnswerSpan[] = [];
  let run: Piece[] = [];
  let isOpen = false;
  const flush = (): void => {
    const ids = encodePieces(run, tokenizer);
    if (isOpen) {
      if (ids[0] !== endTokenId) throw noEndToken();
      answers[answers.length - 1] = { ...answers[answers.length - 1], end: tokens.length + 1 };
    }
    pushAll(tokens, ids);
    run = [];
    isOpen = false;
  };
  for (const piece of piecesOf(messages, tokenizer, false)) {
    const message = piece.message === undefined ? undefined : messages[piece.message];
    if (message?.role !== ASSISTANT) {
      run.push(piece);
      continue;
    }
    flush();
    const start = tokens.length;
    pushAll(tokens, encodePieces([piece], tokenizer));
    answers.push({ start, end: tokens.length, isLearned: message.weight !== 0 });
    isOpen = true;
  }
  if (isOpen && run.length === 0) throw noEndToken();
  flush();
  return { tokens, answers };
}

/**
 * Tokens of a conversation up to where the assistant's next answer begins: how a question is put to an adapter that was
 * trained on conversations.
 *
 * @throws ChatTemplateMismatchError when the template changes a message's text
 */
export function encodeChatPrompt(messages: readonly ChatMessage[], tokenizer: ChatTokenizer): number[] {
  return encodePieces(piecesOf(messages, tokenizer, true), tokenizer);
}

/** In one piece wherever no message holds a control token: tokens may reach over the seams, as they do when asking. */
function encodePieces(pieces: readonly Piece[], tokenizer: ChatTokenizer): number[] {
  const isPlain = (text: string): boolean => !tokenizer.encode(text).some((id) => tokenizer.isSpecial(id));
  if (pieces.every(({ text, message }) => message === undefined || isPlain(text))) {
    return [...tokenizer.encode(pieces.map(({ text }) => text).join(""))];
  }
  return pieces.flatMap(({ text, message }) => [...tokenizer.encode(text, { specialTokens: message === undefined })]);
}

/**
 * Takes a rendered conversation apart, by rendering it around marks in place of the messages, and checks that the pieces
 * together are what the template makes of the conversation itself.
 */
function piecesOf(messages: readonly ChatMessage[], tokenizer: ChatTokenizer, addGenerationPrompt: boolean): Piece[] {
  const render = (contents: readonly string[]): string =>
    tokenizer.renderChat(
      messages.map(({ role }, i) => ({ role, content: contents[i] })),
      { addGenerationPrompt },
    );
  const given = messages.map(({ content }) => content);
  const parts = render(given.map((_, i) => `\ue000${i}\ue001`)).split(/\ue000(\d+)\ue001/);
  const order = parts.flatMap((part, i) => (i % 2 === 1 ? [Number(part)] : []));
  const rendered = render(given);
  // Some templates trim what they are given.
  for (const contents of [given, given.map((content) => content.trim())]) {
    const pieces = parts.map((part, i) =>
      i % 2 === 0 ? { text: part, message: undefined } : { text: contents[Number(part)], message: Number(part) },
    );
    if (pieces.map(({ text }) => text).join("") !== rendered) continue;
    messages.forEach(({ role }, i) => {
      if (role === ASSISTANT && order.filter((shown) => shown === i).length !== 1) throw changed(i);
    });
    return pieces.filter(({ text, message }) => text !== "" || message !== undefined);
  }
  throw changed(undefined);
}

function changed(message: number | undefined): ChatTemplateMismatchError {
  const what = message === undefined ? "the messages' texts" : `the assistant's message ${message + 1}`;
  return new ChatTemplateMismatchError(
    `the model's chat template does not show ${what} as they are, so it cannot be told which tokens are the answer; ` +
      "train with rows of instruction, input and output, or take another model",
  );
}

function noEndToken(): ChatTemplateMismatchError {
  return new ChatTemplateMismatchError(
    "the model's chat template does not put the end token behind an answer, so it would never learn to stop; take another model",
  );
}

/** `push(...ids)` would overflow the stack for a long text. */
function pushAll(to: number[], ids: readonly number[]): void {
  for (const id of ids) to.push(id);
}
