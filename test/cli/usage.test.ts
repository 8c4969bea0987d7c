import { beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { command, type Ended } from "../support/process.ts";

// Each test starts processes, on machines that may be slow and busy.
setDefaultTimeout(120_000);

const COMMANDS = ["data", "download", "train", "runs", "ask", "eval", "export", "serve", "tune", "worker"];

describe("--help", () => {
  test.each(COMMANDS)("%s: what it does, options with defaults, examples; status 0, on stdout", async (name) => {
    const { status, stdout, stderr } = await command(name, ["--help"]);
    expect(status).toBe(0);
    expect(stderr).toBe("");
    expect(stdout).toStartWith(`Usage: bun run ${name} [options]`);
    expect(stdout).toContain("Examples:\n  bun run ");
    expect(stdout).toContain("--json");
    expect(stdout).toContain("--debug");
  });

  test("says the defaults of the contract", async () => {
    const { stdout } = await command("train", ["--help"]);
    const text = stdout.replaceAll(/\s+/g, " ");
    for (const shown of [
      "Qwen/Qwen2.5-0.5B-Instruct",
      "data/input/lora_train_data.csv",
      "model/lora_adapter",
      "default: 8, tuned: 4",
      "default: 32",
      "default: 0.1",
      "q_proj,v_proj",
      "default: 3, tuned: 10",
      "default: 0.0002, tuned: 0.001",
      "default: 512",
      'choices: "linear", "cosine", "constant"',
      'choices: "full", "completion"',
      'choices: "auto", "cpu", "gpu", "reference"',
    ]) {
      expect(text).toContain(shown);
    }
  });
});

describe("wrong usage: status 2, the option or argument named, nothing on stdout", () => {
  const cases: [string, string[], string][] = [
    ["data", [], "missing required argument 'input.csv'"],
    ["data", ["a.csv"], "missing required argument 'output'"],
    ["data", ["a.csv", "b.json", "c"], "too many arguments"],
    ["data", ["a.csv", "b.json", "--instruction", "x", "--keep-instruction"], "'--keep-instruction'"],
    ["data", ["a.csv", "b.json", "--rag", "--instruction", "x"], "'--rag'"],
    ["download", ["--source", "nowhere"], "'--source <name>' argument 'nowhere' is invalid"],
    ["train", ["--no-such-option"], "unknown option '--no-such-option'"],
    ["train", ["--rank", "0"], "'--rank <n>' argument '0' is invalid. It must be a whole number from 1 to 4096."],
    ["train", ["--rank", "1.5"], "'--rank <n>'"],
    ["train", ["--lr", "NaN"], "'--lr <rate>' argument 'NaN' is invalid. It must be a number above 0."],
    ["train", ["--lr", "1e999"], "'--lr <rate>'"],
    ["train", ["--lr", ""], "'--lr <rate>'"],
    [
      "train",
      ["--ui-port", "65536"],
      "'--ui-port <n>' argument '65536' is invalid. It must be a whole number from 0 to 65535.",
    ],
    ["train", ["--sample", " "], "'--sample <question>'"],
    ["train", ["--sample-every", "-1"], "'--sample-every <n>'"],
    ["train", ["--lr", "-1"], "'--lr <rate>'"],
    ["train", ["--max-length", "1"], "'--max-length <n>' argument '1' is invalid"],
    ["train", ["--epochs", "0x10"], "'--epochs <n>'"],
    ["train", ["--alpha", "0"], "'--alpha <x>'"],
    ["train", ["--dropout", "1"], "'--dropout <p>' argument '1' is invalid. It must be a number from 0 to below 1."],
    ["train", ["--batch", "0"], "'--batch <n>'"],
    ["train", ["--grad-accum", "-4"], "'--grad-accum <n>'"],
    ["train", ["--scheduler", "step"], "Allowed choices are linear, cosine, constant"],
    ["train", ["--warmup", "2"], "'--warmup <r>'"],
    ["train", ["--weight-decay", "-0.1"], "'--weight-decay <x>'"],
    ["train", ["--clip", "x"], "'--clip <x>'"],
    ["train", ["--loss", "answer"], "Allowed choices are full, completion"],
    ["train", ["--recipe", "best"], "Allowed choices are default, tuned"],
    [
      "train",
      ["--validation-split", "1"],
      "'--validation-split <share>' argument '1' is invalid. It must be a number above 0 and below 1",
    ],
    ["train", ["--validation", "a", "--validation-split", "0.1"], "cannot be used with option"],
    ["train", ["--early-stop", "2"], "'--early-stop <n>' needs '--validation <file>'"],
    ["train", ["--eval-every", "0"], "'--eval-every <n>'"],
    [
      "train",
      ["--save-every", "-1"],
      "'--save-every <n>' argument '-1' is invalid. It must be a whole number of at least 0",
    ],
    ["train", ["--repeat", "15GB"], "'--repeat <text=n>' argument '15GB' is invalid. It must be TEXT=N"],
    ["train", ["--repeat", "15GB=0"], "'--repeat <text=n>'"],
    ["train", ["--targets", "q_proj,"], "'--targets <names>'"],
    ["train", ["--init-adapter", "x", "--rank", "4"], "cannot be used with option '--rank"],
    ["train", ["--device", "tpu"], "'--device <name>' argument 'tpu' is invalid"],
    ["train", ["--threads", "0"], "'--threads <n>'"],
    ["train", ["--precision", "f16"], "'--precision <type>' argument 'f16' is invalid"],
    ["train", ["--seed", "-1"], "'--seed <n>'"],
    ["train", ["--model", " "], "'--model <name|dir>'"],
    ["tune", ["--rank", "0"], "'--rank <numbers>' argument '0' is invalid. It must be whole numbers from 1 to 4096"],
    ["tune", ["--epochs", "1,2,3"], "It must be the fewest and the most epochs of a trial"],
    [
      "tune",
      ["--budget", "10"],
      "'--budget <time>' argument '10' is invalid. It must be a time such as 90s, 10m or 2h.",
    ],
    ["tune", ["--budget", "0s"], "'--budget <time>'"],
    ["tune", ["--loss", "answer"], "Allowed choices are full, completion"],
    ["tune", ["--recipe", "tuned"], "unknown option '--recipe'"],
    ["worker", [], "required option '--queue <url>' not specified"],
    ["worker", ["--queue", "x", "--lock-seconds", "1"], "'--lock-seconds <n>'"],
    ["ask", [], "missing required argument 'question'"],
    ["ask", [" "], "argument 'question'"],
    ["ask", ["x", "--temperature", "-1"], "'--temperature <t>'"],
    ["ask", ["x", "--top-p", "0"], "'--top-p <p>'"],
    ["ask", ["x", "--max-new-tokens", "0"], "'--max-new-tokens <n>'"],
    ["ask", ["x", "--chat", "--instruction", "y"], "'--chat'"],
    ["export", ["--out", "x"], "required option '--format <name>'"],
    ["export", ["--format", "gguf"], "required option '--out <folder>'"],
    ["export", ["--format", "onnx", "--out", "x"], "'--format <name>' argument 'onnx' is invalid"],
    ["export", ["--format", "mlx", "--out", "x"], "say which with --adapter PATH"],
    ["eval", [], "missing required argument 'file'"],
    ["eval", ["x", "--generate", "-1"], "'--generate <n>'"],
    [
      "serve",
      ["--port", "65536"],
      "'--port <n>' argument '65536' is invalid. It must be a whole number from 0 to 65535.",
    ],
    ["serve", ["--log-level", "loud"], "'--log-level <level>'"],
  ];
  // A process each: two at a time.
  const results = cases.map(() => Promise.withResolvers<Ended>());
  beforeAll(async () => {
    const queue = cases.entries();
    const work = async (): Promise<void> => {
      for (const [i, [name, args]] of queue) results[i].resolve(await command(name, args));
    };
    await Promise.all([work(), work()]);
  });
  test.each(cases.map(([name, args, want], i) => [[name, ...args].join(" "), i, want] as const))(
    "%s",
    async (_, i, want) => {
      const { status, stdout, stderr } = await results[i].promise;
      expect(stderr).toContain(want);
      expect(status).toBe(2);
      expect(stdout).toBe("");
    },
  );
});
