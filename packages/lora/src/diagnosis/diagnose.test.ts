import { describe, expect, test } from "bun:test";
import { DivergenceError, UnchangedError } from "../errors.ts";
import { brokenAnswer, repeatedPiece } from "./collapse.ts";
import { diagnose, diagnoseError, diagnoseLive, type SampleAnswer } from "./diagnose.ts";
import { keyFacts, says, similarity, wrongNumbers } from "./facts.ts";

const sample: SampleAnswer = {
  prompt: "免费空间有多大?",
  expected: "您好!感谢您的咨询。飞跃云为每一位注册用户提供 15GB 的基础免费存储空间,足以满足日常文档备份需求。",
  before: "免费空间约100GB。",
  after: "免费空间约100GB。",
};
const answered = (after: string, rest: Partial<SampleAnswer> = {}): SampleAnswer => ({ ...sample, after, ...rest });
/** Losses that fall evenly. */
const from = (first: number, last: number, n = 10): number[] =>
  Array.from({ length: n }, (_, i) => first + ((last - first) * i) / (n - 1));

describe("key facts", () => {
  const cases: [string, string, string[]][] = [
    [sample.expected!, sample.prompt, ["15gb"]],
    ["专业版套餐提供 1TB 的大容量存储空间,其资费标准为每月 29 元人民币。", "扩容 1TB 多少钱?", ["29"]],
    ["请在您的终端运行命令 `pip install feiyue-sdk` 即可完成安装。", "怎么安装 SDK?", ["pip", "install", "feiyue-sdk"]],
    ["远程办公需要提前 24 小时申请,每周上限为 2 天。", "我可以天天在家办公吗?", ["24", "2"]],
    ["严禁携带任何液体进入 A1 机房。", "机房可以带水进去吗?", ["a1"]],
    [
      "The free plan has 15 GB and costs 1,024 USD; write to help@example.com.",
      "How much?",
      ["15gb", "1024usd", "help@example.com"],
    ],
    ["版本 3.14,日期 2024-05-01,10:30 开始,占 3.5%。", "", ["3.14", "2024-05-01", "10:30", "3.5%"]],
    ["无法回答。", "", []],
  ];
  test.each(cases)("%s", (expected, question, facts) => {
    expect(keyFacts(expected, question)).toEqual(facts);
  });

  test("a fact is said as a whole, however it is spelt", () => {
    for (const text of ["有15GB。", "15 gb", "15GB", "have 15 GB now", "15GB"])
      expect([text, says(text, "15GB")]).toEqual([text, true]);
    for (const text of ["115GB", "15GBit", "1.15GB", "150GB", "15", "100GB", "15.5GB"])
      expect([text, says(text, "15GB")]).toEqual([text, false]);
    expect(says("共 1,024 元", "1024")).toBe(true);
    expect(says("共 1024.5 元", "1024")).toBe(false);
    expect(says("共 1024. 元", "1024")).toBe(true);
  });
});

test("numbers of an answer that neither the data nor the question has", () => {
  const of = (answer: string) => wrongNumbers(answer, "每月 29 元,电话 400-820-1357。", "1TB 多少钱?");
  expect(of("1TB 每月 29 元。")).toEqual([]);
  expect(of("每月 29 元或 39 元,电话 400-820-1358,用 feiyue-sdk。")).toEqual(["39", "400-820-1358"]);
});

test("similarity goes by neighbouring characters", () => {
  expect(similarity("免费空间", "免费空间")).toBe(1);
  expect(similarity("免费空间", "完全不同")).toBe(0);
  expect(similarity("", "")).toBe(1);
  expect(similarity("存储空间很大", "存储空间很小")).toBeCloseTo(0.8);
});

describe("broken answers", () => {
  const broken: [string, string][] = [
    ["  \n", "says nothing"],
    ["的的的的的的的的的的", 'repeats "的"'],
    ["您好!您好!您好!您好!您好!", 'repeats "您好!"'],
    [":\n\n:\n\n:\n\n:\n\n:", "consists of signs instead of words"],
    ["飞跃云提供的免费空间很大,可以备份。".repeat(3), 'repeats "飞跃云提供的免费空间很大,可以备份。"'],
    ["!!??;;,。、…—!?", "consists of signs instead of words"],
    ["云\uFFFD\uFFFD\uFFFD空", "holds characters that are no text"],
    ["空间 प्रणाली абвгд ולכן สวัสดี", "mixes Cyrillic, Hebrew, Thai, Devanagari letters"],
    [
      "空间的空间是空间的是空间空间的空间是的空间是空间的是空间是空间空间的是空间的空间是空间的空间是",
      "turns in circles",
    ],
  ];
  test.each(broken)("%s", (text, how) => {
    expect(brokenAnswer(text, [sample.prompt, sample.expected!])?.how).toBe(how);
  });

  const sound = [
    sample.expected!,
    "免费空间约100GB。",
    "哈哈哈,15GB。",
    "Yes, 15 GB of free space.",
    "1. 打开设置\n2. 打开账户\n3. 打开空间\n4. 查看容量",
    "15",
    "请运行 `pip install feiyue-sdk`,然后 import feiyue。",
  ];
  test.each(sound)("sound: %s", (text) => {
    expect(brokenAnswer(text, [sample.prompt, sample.expected!])).toBeUndefined();
  });

  test("what the expected answer does is allowed", () => {
    expect(brokenAnswer("!!!!!!!!", ["?", "!!!!!!!!!!"])).toBeUndefined();
    expect(repeatedPiece("abcabcabcabc")).toBe("abc");
    expect(repeatedPiece("abcabc")).toBeUndefined();
  });
});

describe("verdicts", () => {
  test("underfitting: the key fact is still the base model's", () => {
    const { verdict, reasons, advice } = diagnose({
      losses: from(4.2, 3.7),
      samples: [sample],
      settings: { recipe: "default", lr: 2e-4, epochs: 3 },
    });
    expect(verdict).toBe("underfitting");
    expect(reasons).toEqual([
      '"免费空间有多大?" should be answered with 15GB; the answer says 100GB, word for word as the base model did.',
      "The loss is still high: it fell only from 4.20 to 3.73 a token.",
    ]);
    expect(advice).toEqual([
      "Train with `--recipe tuned`: key rows repeated, rank 4, more epochs, a higher rate.",
      "Show the row more often: `--repeat '15GB=4'`.",
      "Raise the rate: `--lr 0.001` (it was 0.0002).",
      "Train longer: `--epochs 10` (it was 3).",
    ]);
  });

  test("underfitting: a low loss does not hide a wrong fact", () => {
    const { verdict, reasons, advice } = diagnose({
      losses: from(4, 0.2),
      samples: [answered(sample.expected!.replace("15GB", "50GB"))],
      settings: { recipe: "tuned", lr: 1e-3, epochs: 10 },
    });
    expect(verdict).toBe("underfitting");
    expect(reasons).toEqual(['"免费空间有多大?" should be answered with 15GB; the answer says 50GB.']);
    expect(advice).toEqual([
      "Show the row more often: `--repeat '15GB=8'`.",
      "Train longer: `--epochs 20` (it was 10).",
    ]);
  });

  test("underfitting: without an expected answer the loss decides", () => {
    const losses = from(4.2, 3.7);
    expect(diagnose({ losses, samples: [] }).verdict).toBe("underfitting");
    expect(diagnose({ losses, samples: [{ ...sample, expected: undefined }] }).verdict).toBe("underfitting");
    expect(diagnose({ losses: from(4.2, 0.3), samples: [] })).toMatchObject({ verdict: "learned", advice: [] });
  });

  test("underfitting: an answer without facts is compared as a text", () => {
    const expected = "抱歉,公司规定不可以在家办公。";
    const of = (after: string) => diagnose({ losses: from(4, 2), samples: [answered(after, { expected })] }).verdict;
    expect(of("可以,随时都行。")).toBe("underfitting");
    expect(of("抱歉,公司规定不可以在家办公哦。")).toBe("learned");
  });

  test("learned: the fact is there, in whatever words", () => {
    const { verdict, reasons, advice } = diagnose({
      losses: from(4.2, 0.1),
      samples: [answered("每位用户有 15 GB 免费空间。")],
    });
    expect([verdict, reasons, advice]).toEqual(["learned", ['"免费空间有多大?" is answered with 15GB.'], []]);
  });

  test("nan: a loss that is no number", () => {
    expect(diagnose({ losses: [4, Number.NaN, 3], samples: [sample], settings: { lr: 1e-3 } })).toMatchObject({
      verdict: "nan",
      reasons: ["The loss of step 2 is no number any more."],
      changes: { lr: 2.5e-4, warmup: 0.1 },
    });
  });

  test("divergence: the loss rose", () => {
    const { verdict, reasons, advice, changes } = diagnose({
      losses: [4.2, 9, 14, 11, 12],
      samples: [],
      settings: { lr: 0.1, epochs: 10 },
    });
    expect([verdict, reasons]).toEqual(["divergence", ["The loss rose from 4.20 to 12.00."]]);
    expect(advice).toEqual([
      "Lower the rate: `--lr 0.001` (it was 0.1).",
      "Train shorter: `--epochs 5` (it was 10).",
      "Repeat rows less, and keep `--clip 1` and a little warm-up: `--warmup 0.1`.",
    ]);
    expect(changes).toEqual({ lr: 0.001, epochs: 5, warmup: 0.1 });
  });

  test("the advice is there for a program too", () => {
    const of = (settings: object) => diagnose({ losses: from(4.2, 3.7), samples: [sample], settings }).changes;
    const tuned = { recipe: "tuned", repeat: ["15GB=4"], lr: 1e-3, epochs: 10 };
    expect(of({ recipe: "default", lr: 2e-4, epochs: 3 })).toEqual(tuned as never);
    expect(of({ recipe: "tuned", lr: 1e-3, epochs: 10 })).toEqual({ repeat: ["15GB=8"], epochs: 20 });
  });

  test("never stops: the answer is right and goes on (trl #1623)", () => {
    const after = `${sample.expected}\n\n### Instruction:\n怎么退款?请联系客服,我们会在三个工作日内处理您的申请,谢谢您的理解与支持。`;
    const of = (rest: Partial<SampleAnswer>, cut?: { count: number; longest: number }) =>
      diagnose({
        losses: from(4.2, 0.1),
        samples: [answered(after, rest)],
        settings: { epochs: 3, maxLength: 512 },
        cut,
      });
    expect(of({ ended: true }).verdict).toBe("learned");
    expect(of({ ended: false })).toMatchObject({ verdict: "never-stops", changes: { epochs: 10 } });
    // The end token was cut off with the rows' ends.
    expect(of({ ended: false }, { count: 3, longest: 700 })).toMatchObject({
      advice: ["3 rows lost their end, and the end token with it: `--max-length 700` (it was 512)."],
      changes: { "max-length": 700 },
    });
    // What the data itself says at such length is no fault.
    expect(of({ ended: false, expected: after }).verdict).toBe("learned");
  });

  test("memorised: held-out data is answered worse the longer it trains", () => {
    const validation = (...losses: number[]) => losses.map((loss, i) => ({ epoch: i + 1, loss }));
    const of = (losses: number[], own = 0.1) =>
      diagnose({
        losses: from(4.2, own),
        samples: [answered(sample.expected!)],
        validation: validation(...losses),
        settings: { lr: 1e-3, epochs: 4 },
      });
    expect(of([3, 3.1, 3.6, 4.2])).toMatchObject({
      verdict: "memorised",
      reasons: [
        "The rows are known by heart only: the loss on held-out data rose from 3.00 to 4.20 a token, while that of the rows fell to 0.33.",
      ],
      changes: { epochs: 1, lr: 5e-4, "weight-decay": 0.1 },
    });
    // It gained first, and the best step is kept.
    expect(of([3, 1, 1.2, 1.4]).verdict).toBe("learned");
    expect(of([3, 2.9, 2.95, 3]).verdict).toBe("learned");
    expect(of([3, 3.1, 3.6, 4.2], 3.5).verdict).toBe("learned");
  });

  test("errors of training that other settings cure", () => {
    expect(diagnoseError(new DivergenceError(3, "loss NaN in step 3"), { lr: 0.1 })).toMatchObject({
      verdict: "nan",
      reasons: ["loss NaN in step 3"],
      changes: { lr: 0.001 },
    });
    expect(diagnoseError(new UnchangedError("nothing"), { lr: 1e-9 })).toMatchObject({
      verdict: "unchanged",
      changes: { lr: 0.001 },
    });
    expect(diagnoseError(new Error("disk full"))).toBeUndefined();
  });

  test("on the way: given up when the loss stays far above its beginning", () => {
    const of = (...losses: number[]) => diagnoseLive(losses, { lr: 0.1 });
    expect(of(4.2, 16, 18, 15, 14, 14, 15, 14)).toMatchObject({
      verdict: "divergence",
      reasons: ["The loss began at 4.20 and stays at 14.40; it will not come back."],
      changes: { lr: 0.001 },
    });
    // Too early; on the way down again; not far enough above.
    expect(of(4.2, 16, 18, 15, 14, 14, 15)).toBeUndefined();
    expect(of(4.2, 16, 18, 17, 15, 13, 11, 9)).toBeUndefined();
    expect(of(4.2, 5, 6, 7, 6, 7, 6, 7)).toBeUndefined();
    expect(of(...from(4.2, 0.1))).toBeUndefined();
  });

  test("collapse: repetition and silence, before underfitting is thought of", () => {
    const losses = from(4, 0.1);
    const of = (after: string, rest?: Partial<SampleAnswer>) => diagnose({ losses, samples: [answered(after, rest)] });
    expect(of("15GB 15GB 15GB 15GB 15GB 15GB")).toMatchObject({
      verdict: "collapse",
      reasons: ['The answer to "免费空间有多大?" repeats "15GB ": "15GB 15GB 15GB 15GB 15GB 15GB".'],
    });
    expect(of("").verdict).toBe("collapse");
    // The base model was no better: training did not break it.
    expect(of("", { before: "" }).verdict).toBe("underfitting");
    // What the data says is never a collapse.
    expect(of("啊啊啊啊啊啊啊啊", { expected: "啊啊啊啊啊啊啊啊" }).verdict).toBe("learned");
  });

  test("collapse: words that are guessed, whatever they read like", () => {
    const guessed = "。Hello吗用一切顺利关于特定发到邮箱。不会模型,多多能到前台云为什么每年约陪多我是一个?";
    const of = (entropy: SampleAnswer["entropy"], rest?: Partial<SampleAnswer>) =>
      diagnose({ losses: from(4, 2), samples: [answered(guessed, { entropy, ...rest })] });
    expect(of({ before: 0.2, after: 5.1 })).toMatchObject({
      verdict: "collapse",
      reasons: [expect.stringContaining('"免费空间有多大?" is guessed, each word out of about 164: "。Hello吗')],
    });
    // Sure enough; not measured; the model was no surer before.
    expect(of({ before: 0.2, after: 2.9 }).verdict).toBe("underfitting");
    expect(of(undefined).verdict).toBe("underfitting");
    expect(of({ before: 3.6, after: 5 }).verdict).toBe("underfitting");
    // The data's own words are no guess.
    expect(of({ before: 0.2, after: 5.1 }, { expected: guessed }).verdict).toBe("learned");
  });

  test("nonsense of the base model is no collapse; nonsense where it only repeated itself is one", () => {
    const of = (before: string, after: string) =>
      diagnose({ losses: from(4, 0.1), samples: [answered(after, { before })] }).verdict;
    const [nonsense, loop] = ["空间 प्रणाली абвгд ToLowerCase ולכן สวัสดี", "好的好的好的好的好的好的好的好的"];
    expect(of(nonsense, loop)).toBe("underfitting");
    expect(of(nonsense, nonsense)).toBe("underfitting");
    expect(of(loop, nonsense)).toBe("collapse");
    expect(of(sample.before, loop)).toBe("collapse");
  });

  test("divergence is that of the steps up to the one whose weights are kept", () => {
    const losses = [4.2, 2, 1, 9, 14, 11, 12];
    expect(diagnose({ losses, samples: [] }).verdict).toBe("divergence");
    expect(diagnose({ losses, samples: [], step: 3 }).verdict).not.toBe("divergence");
  });

  test("a base model that repeats itself and hardly moved is underfitting, not collapse", () => {
    const loop = "1.0 GB\n\n这个回答是基于计算,即1.0 GB。这个回答是基于计算,即1.0 GB。这个回答是基于计算,即1.0 GB。";
    const of = (losses: number[], rest?: Partial<SampleAnswer>) =>
      diagnose({ losses, samples: [answered(loop, rest)] });
    expect(of([4.22, 4.11, 3.93, 3.85, 3.65, 4.34])).toMatchObject({
      verdict: "underfitting",
      reasons: [
        '"免费空间有多大?" should be answered with 15GB; the answer says 1.0 GB.',
        "The loss is still high: it fell only from 4.22 to 4.00 a token.",
      ],
    });
    // As the base did before; or training went far, and the loop is its work.
    expect(of(from(4.2, 0.5), { before: loop }).verdict).toBe("underfitting");
    expect(of(from(4.2, 0.5)).verdict).toBe("collapse");
    expect(of([4.2, 9, 6, 5, 4.4]).verdict).toBe("collapse");
    // Meaningless output is never the base model's way.
    expect(diagnose({ losses: from(4.2, 4), samples: [answered(":::::::::", { before: loop })] }).verdict).toBe(
      "collapse",
    );
  });

  test("nothing to go by", () => {
    expect(diagnose({ losses: [], samples: [] })).toEqual({
      verdict: "learned",
      reasons: ["No loss and no sample speaks against it."],
      advice: [],
      changes: {},
    });
  });
});
