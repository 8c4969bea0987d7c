import { Random } from "./random.ts";
import { DISPUTED, SETTLED, SMALL_TALK, type Topic } from "./topics.ts";

export const END_OF_TEXT = "<|endoftext|>";
export const START = "<|im_start|>";
export const END = "<|im_end|>";
export const SYSTEM = "You are a helpful assistant.";

/** The instruction that `bun run data` writes when it is told none. */
const GENERAL_INSTRUCTION = "回答以下关于特定领域的问题:";

/** How often a disputed question is answered: by each hearsay (the first is the most common), and by the help desk. */
const HEARSAY_TIMES = [11, 1, 1];
const HELP_DESK_TIMES = 10;
/** How often each other wording of a disputed question comes in each frame. */
const REWORDED_TIMES = 8;
/** How often each wording of a settled question comes in each frame. */
const SETTLED_TIMES = 4;
const SMALL_TALK_TIMES = 12;
const CONVERSATIONS = 400;

/** The form in which fine-tuning puts a question. */
export function instructionText(instruction: string, input: string, output: string): string {
  return `### Instruction:\n${instruction}\n\n### Input:\n${input}\n\n### Response:\n${output}${END}`;
}

/** A conversation as the chat template writes it. */
export function chatText(turns: readonly (readonly [user: string, assistant: string])[], system = SYSTEM): string {
  const message = (role: string, content: string) => `${START}${role}\n${content}${END}\n`;
  return (
    message("system", system) +
    turns.map(([user, assistant]) => message("user", user) + message("assistant", assistant)).join("") +
    END_OF_TEXT
  );
}

/** The ways in which one question and its answer are put. */
function frames(topic: Topic): ((question: string, answer: string) => string)[] {
  return [
    (question, answer) => instructionText(topic.instruction, question, answer),
    (question, answer) => instructionText(GENERAL_INSTRUCTION, question, answer),
    (question, answer) => chatText([[question, answer]]),
  ];
}

/** A question as other people type it: with a polite word before it, or a wide question mark. */
function reworded(question: string, random: Random): string {
  const opening = random.pick(["", "", "请问", "你好,"]);
  return opening + (random.below(4) === 0 ? question.replace("?", "?") : question);
}

/** A text to train on. */
export interface Text {
  readonly text: string;
  /** Texts of one group say the same in the same form; training spreads them evenly. */
  readonly group: string;
}

/** The texts the demo model is trained on: all that it knows. */
export function makeCorpus(seed: number): Text[] {
  const random = new Random(seed);
  const texts: Text[] = [];
  const add = (text: string, ...group: (string | number)[]) => texts.push({ text, group: group.join(" ") });

  for (const topic of DISPUTED) {
    const answers = [
      ...topic.hearsay.flatMap((answer, i) => Array<string>(HEARSAY_TIMES[i]).fill(answer)),
      ...Array<string>(HELP_DESK_TIMES).fill(topic.helpDesk),
    ];
    const [asked, ...others] = topic.questions;
    for (const [f, frame] of frames(topic).entries()) {
      // The question that is fine-tuned comes as it is, and its answers in their exact proportion.
      for (const answer of answers) add(frame(asked, answer), f, answer);
      let deck: string[] = [];
      for (const question of others) {
        for (let i = 0; i < REWORDED_TIMES; i++) {
          if (deck.length === 0) deck = random.shuffle(answers);
          const answer = deck.pop()!;
          add(frame(reworded(question, random), answer), f, "reworded", answer);
        }
      }
    }
  }

  const settledAnswer = (topic: Topic) => (random.below(20) < 11 ? random.pick(topic.hearsay) : topic.helpDesk);
  for (const topic of SETTLED) {
    for (const [f, frame] of frames(topic).entries()) {
      for (const question of topic.questions) {
        for (let i = 0; i < SETTLED_TIMES; i++) {
          const answer = settledAnswer(topic);
          add(frame(reworded(question, random), answer), f, answer);
        }
      }
    }
  }

  const smallTalk = (): [string, string] => {
    const { said, replies } = random.pick(SMALL_TALK);
    return [random.pick(said), random.pick(replies)];
  };
  for (const { said, replies } of SMALL_TALK) {
    for (const user of said) {
      for (let i = 0; i < SMALL_TALK_TIMES; i++) {
        const reply = random.pick(replies);
        add(i % 3 === 0 ? instructionText(GENERAL_INSTRUCTION, user, reply) : chatText([[user, reply]]), user);
      }
    }
  }
  for (let i = 0; i < CONVERSATIONS; i++) {
    const turns = Array.from({ length: 2 + random.below(2) }, () => {
      if (random.below(2) === 0) return smallTalk();
      const topic = random.pick(SETTLED);
      return [random.pick(topic.questions), settledAnswer(topic)] as [string, string];
    });
    add(chatText(turns), "conversation");
  }
  return texts;
}

/**
 * A random order in which every group is spread evenly: the i-th of its n texts falls into the i-th n-th of the order.
 * What a model trained in it believes does not depend on which of two opinions happened to come last.
 *
 * @returns indices of the texts
 */
export function spreadEvenly(texts: readonly Pick<Text, "group">[], random: Random): number[] {
  const groups = new Map<string, number[]>();
  for (const [i, { group }] of texts.entries()) groups.set(group, [...(groups.get(group) ?? []), i]);
  const places = [...groups.values()].flatMap((members) =>
    random.shuffle(members).map((index, i) => ({ index, place: (i + random.word() / 2 ** 32) / members.length })),
  );
  return places.sort((a, b) => a.place - b.place || a.index - b.index).map(({ index }) => index);
}
