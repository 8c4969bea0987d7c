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
const HELP_DESK_TIMES = 9;
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

/** The texts the demo model is trained on, in random order: all that it knows. */
export function makeCorpus(seed: number): string[] {
  const random = new Random(seed);
  const texts: string[] = [];

  for (const topic of DISPUTED) {
    const answers = [
      ...topic.hearsay.flatMap((answer, i) => Array<string>(HEARSAY_TIMES[i]).fill(answer)),
      ...Array<string>(HELP_DESK_TIMES).fill(topic.helpDesk),
    ];
    for (const frame of frames(topic)) {
      const [asked, ...others] = topic.questions;
      // The question that is fine-tuned comes as it is, and its answers in their exact proportion.
      for (const answer of answers) texts.push(frame(asked, answer));
      for (const question of others) {
        for (let i = 0; i < REWORDED_TIMES; i++) texts.push(frame(reworded(question, random), random.pick(answers)));
      }
    }
  }

  const settledAnswer = (topic: Topic) => (random.below(20) < 11 ? random.pick(topic.hearsay) : topic.helpDesk);
  for (const topic of SETTLED) {
    for (const frame of frames(topic)) {
      for (const question of topic.questions) {
        for (let i = 0; i < SETTLED_TIMES; i++) texts.push(frame(reworded(question, random), settledAnswer(topic)));
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
        texts.push(i % 3 === 0 ? instructionText(GENERAL_INSTRUCTION, user, reply) : chatText([[user, reply]]));
      }
    }
  }
  for (let i = 0; i < CONVERSATIONS; i++) {
    const turns = Array.from({ length: 2 + random.below(2) }, () => {
      if (random.below(2) === 0) return smallTalk();
      const topic = random.pick(SETTLED);
      return [random.pick(topic.questions), settledAnswer(topic)] as [string, string];
    });
    texts.push(chatText(turns));
  }
  return random.shuffle(texts);
}
