import { describe, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { NOTHING_WRITTEN } from "../../run.ts";
import { Terminal } from "../../terminal.ts";
import { trainCommand } from "../options.ts";
import { parseRunFile } from "./read.ts";
import { fileOptions, keyOf, runFileJsonSchema } from "./schema.ts";
import { runFileText, SCHEMA_FILE } from "./write.ts";

const newCommand = () =>
  trainCommand({
    signal: new AbortController().signal,
    terminal: new Terminal(),
    kept: NOTHING_WRITTEN,
    whole: (work) => work(),
  }).configureOutput({ writeErr: () => {}, writeOut: () => {} });
const read = (text: string) => parseRunFile(text, "train.yaml", newCommand());

/** The options of a call with a run file of this text, and where some of them come from. */
async function optionsOf(text: string, ...argv: string[]) {
  const folder = mkdtempSync(join(tmpdir(), "run-file-"));
  try {
    const file = join(folder, "train.yaml");
    writeFileSync(file, text);
    const command = newCommand();
    let options: Record<string, unknown> = {};
    command.action((given) => {
      options = given;
    });
    await command.parseAsync(
      argv.map((word) => (word === "FILE" ? file : word)),
      { from: "user" },
    );
    return { options, source: (name: string) => command.getOptionValueSource(name as never) };
  } finally {
    rmSync(folder, { recursive: true });
  }
}

describe("a run file", () => {
  test("takes what the command line takes, and gives the same values", async () => {
    const text = `
rank: 4
lr: 1e-3
targets: [q_proj, v_proj]
layers: 0-2
use-rslora: true
use-dora: false
shuffle: false
init-lora-weights: pissa
repeat: [15GB=4, "1TB=2"]
sample: 多大?
scheduler: cosine
`;
    const flags =
      "--rank 4 --lr 1e-3 --targets q_proj,v_proj --layers 0-2 --use-rslora --no-shuffle --init-lora-weights pissa";
    const more = "--repeat 15GB=4 --repeat 1TB=2 --sample 多大? --scheduler cosine";
    const { config: _, ...fromFile } = (await optionsOf(text, "--config", "FILE")).options;
    expect(fromFile).toEqual((await optionsOf("", ...`${flags} ${more}`.split(" "))).options);
  });

  test("gives way to the command line, on whichever side of --config it stands", async () => {
    const text = "rank: 4\nepochs: 5\nrepeat: [a=2, b=3]\nsample: [x, y]";
    const { options, source } = await optionsOf(
      text,
      "--rank",
      "16",
      "--sample",
      "z",
      "--config",
      "FILE",
      "--repeat",
      "c=4",
    );
    expect(options).toMatchObject({ rank: 16, epochs: 5, repeat: [{ text: "c", times: 4 }], sample: ["z"] });
    expect([source("rank"), source("epochs"), source("batch")]).toEqual(["cli", "config", "default"]);
  });

  test("conflicts and what an option implies hold as on the command line", async () => {
    await expect(optionsOf("warmup: 0.1\nwarmup-steps: 3", "--config", "FILE")).rejects.toThrow("cannot be used with");
    await expect(optionsOf("init-adapter: a", "--config", "FILE", "--rank", "4")).rejects.toThrow(
      "cannot be used with",
    );
    expect((await optionsOf("ui-port: 0", "--config", "FILE")).options).toMatchObject({ ui: true, uiPort: 0 });
  });

  const errors: [text: string, told: string][] = [
    ["rank: 4\nepochs: 0", "train.yaml, line 2, column 9: epochs must be a whole number from 1 to 100000, not 0"],
    ["lr: fast", 'train.yaml, line 1, column 5: lr must be a number above 0, not "fast"'],
    ["lr: -1", "lr must be a number above 0, not -1"],
    ["batch: two", 'batch must be a whole number from 1 to 65536, not "two"; such as  batch: 1'],
    ["scheduler: cosin", "column 12: scheduler must be one of linear, cosine, constant, cosine_with_restarts, not"],
    ["use-dora: yes", 'use-dora must be true or false, not "yes"'],
    ["data: 5", "data must be a text: put it in quotes, not 5"],
    ["rank:", "line 1, column 6: rank must be a whole number from 1 to 4096, not null"],
    [
      "repeat:\n  - 15GB=4\n  - 15GB",
      "line 3, column 5: repeat must be TEXT=N with a whole number N from 1 to 1000, such as",
    ],
    ["layers: 5-2", "layers must be numbers of layers from 0"],
    ["\nmaxLength: 3", "line 2, column 1: there is no setting maxLength; write  max-length:"],
    ["gradient_accumulation_steps: 3", "there is no setting gradient_accumulation_steps; write  grad-accum:"],
    ["lora_alpha: 3", "write  alpha:"],
    ["ephocs: 3", "write  epochs:"],
    ["no-shuffle: true", "write  shuffle: false"],
    ["json: true", "there is no setting json; bun run train --init writes a file with all of them"],
    ["rank: 4\nrank: 5", "train.yaml, line 2, column 1: this is no YAML: Map keys must be unique"],
    ["rank: [4", "this is no YAML"],
    ["- rank", "train.yaml, line 1, column 1: a run file holds a setting a line, such as  rank: 8"],
    ["rank: 0\nlr: 0", "line 1, column 7: rank must be a whole number from 1 to 4096, not 0; such as"],
  ];
  test.each(errors)("%j is refused, with line, column and what to write", (text, told) => {
    expect(() => read(text)).toThrow(
      told.replace("; such as", text.startsWith("rank: 0") ? "; train.yaml, line 2" : "; such as"),
    );
  });

  test("nothing but comments is no setting", () => {
    expect(read("# rank: 4\n")).toEqual({});
  });
});

describe("what --init writes", () => {
  const command = newCommand();
  const text = runFileText(command, "train.schema.json");

  test("changes nothing as it is, and names every option of the help once", () => {
    expect(read(text)).toEqual({});
    const help = [...command.helpInformation().matchAll(/^ {2}(?:-\w, )?--(?:no-)?([\w-]+)/gm)].map(([, name]) => name);
    const own = ["json", "debug", "resume", "config", "init", "estimate", "help"];
    const known = fileOptions(command).map(keyOf);
    const written = [...text.matchAll(/^# ([a-z-]+): /gm)].map(([, key]) => key).filter((key) => known.includes(key));
    expect([...written, ...own].toSorted()).toEqual([...help].toSorted());
  });

  test("every default that it shows is one that a run file takes", () => {
    const settings = [...text.matchAll(/^# ([a-z-]+: .*)$/gm)].map(([, setting]) => setting);
    const shown = settings.filter((setting) => !setting.startsWith("yaml-") && !/[<[]/.test(setting));
    expect(shown.length).toBeGreaterThan(25);
    const known = new Set(fileOptions(command).map(keyOf));
    for (const setting of shown.filter((one) => known.has(one.split(":")[0])))
      expect(() => read(setting)).not.toThrow();
    expect(shown).toContain("rank: 8");
    expect(shown).toContain("targets: q_proj,v_proj");
  });
});

test("the published JSON Schema is that of the options (bun packages/cli/src/train/run-file/make-schema.ts makes it anew)", () => {
  expect(JSON.parse(readFileSync(SCHEMA_FILE, "utf8"))).toEqual(
    JSON.parse(JSON.stringify(runFileJsonSchema(newCommand()))),
  );
});
