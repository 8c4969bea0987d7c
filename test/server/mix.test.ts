/**
 * Answers do not depend on what else is asked: requests of all kinds, each alone first, then in changing mixes with others, some
 * of them given up, in a cache that is too small for all. With the demo model; with other weights by hand:
 *
 *   MIX_MODEL=DIR MIX_ADAPTERS=DIR,DIR MIX_COUNT=500 bun test test/server/mix.test.ts
 */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { askAlone, askMixed, requestsOfAllKinds } from "../support/mix.ts";
import { command, temporaryFolder } from "../support/process.ts";
import { serveProcess } from "../support/server.ts";

const { MIX_MODEL, MIX_ADAPTERS, MIX_COUNT = "250", MIX_TOKENS = "24", MIX_SEED = "1" } = process.env;
setDefaultTimeout(1_200_000);

let home: Awaited<ReturnType<typeof temporaryFolder>>;
let model = MIX_MODEL ?? "demo";
let adapters = MIX_ADAPTERS?.split(",") ?? [];

beforeAll(async () => {
  home = await temporaryFolder();
  if (MIX_MODEL !== undefined) return;
  model = "demo";
  adapters = await Promise.all(
    ["很好,谢谢你!", "每位用户有 15GB 的空间。"].map(async (output, i) => {
      const [rows, out] = [join(home.path, `rows${i}.json`), join(home.path, `adapter${i}`)];
      await writeFile(rows, JSON.stringify([{ instruction: "请回答", input: "免费空间有多大?", output }]));
      const recipe = ["--epochs", "40", "--lr", "1e-3", "--targets", i === 0 ? "all" : "q_proj,v_proj,o_proj"];
      const { status, stderr } = await command("train", ["--model", model, "--data", rows, "--out", out, ...recipe]);
      if (status !== 0) throw new Error(stderr);
      return out;
    }),
  );
});
afterAll(() => home[Symbol.asyncDispose]());

describe.each([
  ["f32", "6"],
  ["q8_0", "4"],
])("a cache of %s", (type, megabytes) => {
  test("in any mix the answers are those given alone", async () => {
    const size = MIX_MODEL === undefined ? megabytes : "96";
    const serve = () =>
      serveProcess([
        ...["--model", model, "--cache-type", type, "--cache-mb", size, "--concurrency", "8", "--log-level", "error"],
        ...adapters.flatMap((adapter) => ["--adapter", adapter]),
      ]);
    await using first = await serve();
    await using served = await serve();
    const requests = requestsOfAllKinds(
      served.model,
      adapters.map((dir) => basename(dir)),
      Number(MIX_TOKENS),
    );
    const alone = await askAlone(first.url, requests);
    first.running.process.kill("SIGKILL");
    expect(alone.filter((answer) => answer.startsWith("status"))).toEqual([]);
    // In the other order, what was asked before left other beginnings of prompts in the cache: they change nothing.
    expect(await askAlone(served.url, requests.toReversed())).toEqual(alone.toReversed());
    const seed = Number(MIX_SEED);
    const { wrong, compared, cancelled } = await askMixed(served.url, requests, alone, {
      ...{ clients: 20, count: Number(MIX_COUNT), seed },
    });
    console.log(`${type}: ${compared} answers compared, ${cancelled} given up, ${wrong.length} wrong`);
    expect(wrong).toEqual([]);
    expect(compared).toBeGreaterThan(Number(MIX_COUNT) / 2);
    // Each adapter answers in its own way, or the comparison would say little.
    const greedy = requests.flatMap(({ name }, i) =>
      name.endsWith("greedy 0") ? [alone[i].replace(/"adapter":[^,]*/, "")] : [],
    );
    expect(new Set(greedy).size).toBe(adapters.length + 1);
    expect(served.running.stderr()).not.toContain('"level":50');
  });
});
