import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { ROOT, temporaryFolder } from "../support/process.ts";
import { writeTinyModel } from "../support/tiny-model.ts";

// Each test starts processes, on machines that may be slow and busy.
setDefaultTimeout(120_000);

const FIGURES = [
  "load_s",
  "prefill512_tokens_per_s",
  "decode_tokens_per_s",
  "decode_q8_tokens_per_s",
  "decode_q4_tokens_per_s",
  "sft_tokens_per_s",
  "sft512_tokens_per_s",
  "gemm_gflops",
  "wasm_gflops",
  "read_gbytes_per_s",
];

describe("bench", () => {
  let home: Awaited<ReturnType<typeof temporaryFolder>>;
  beforeAll(async () => {
    home = await temporaryFolder();
    await writeTinyModel(home.path);
  });
  afterAll(() => home[Symbol.asyncDispose]());

  async function bench(...args: string[]) {
    const command = ["bun", join(ROOT, "bench/src/bench.ts"), "--model", home.path, ...args];
    // Rounded weights are kept in a cache; not in the user's.
    const env = { ...process.env, XDG_CACHE_HOME: join(home.path, "cache") };
    const child = Bun.spawn(command, { stdout: "pipe", stderr: "pipe", env });
    const [stdout, stderr] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
    return { status: await child.exited, stdout, stderr };
  }

  test("every figure, a JSON line each with its memory and device", async () => {
    const { status, stdout, stderr } = await bench("--json", "--threads", "1");
    expect([status, stderr]).toEqual([0, `Measuring ${home.path}.\n`]);
    const lines = stdout
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line));
    expect(lines.map(({ figure }) => figure)).toEqual(FIGURES);
    for (const line of lines) {
      expect(line.value).toBeGreaterThan(0);
      expect(line.peak_rss_bytes).toBeGreaterThan(1e7);
      expect(line).toMatchObject({
        rss_file_bytes: expect.any(Number),
        device: "cpu",
        isa: expect.any(String),
        threads: 1,
      });
    }
    const [gemm, wasm, sft512] = ["gemm_gflops", "wasm_gflops", "sft512_tokens_per_s"].map(
      (name) => lines[FIGURES.indexOf(name)],
    );
    expect(Math.min(gemm.of_peak, gemm.peak_gflops)).toBeGreaterThan(0);
    expect(gemm.square_of_peak).toBeGreaterThan(0);
    expect(gemm.peak_of).toMatch(/f32/);
    expect(wasm).toMatchObject({ isa: "wasm", loop_gflops: expect.any(Number), register_gflops: expect.any(Number) });
    expect(wasm.of_loop).toBeGreaterThan(0);
    expect(sft512.tokens).toBe(2048);
  });

  test("--profile: every operation, its arithmetic and memory, and how near the machine's limits it comes", async () => {
    const { status, stdout, stderr } = await bench(
      "--profile",
      "--only",
      "decode_tokens_per_s,sft_tokens_per_s,load_s",
    );
    expect([status, stderr]).toEqual([0, `Measuring ${home.path}.\n`]);
    const [decode, step] = stdout.trim().split("\n\n");
    expect(decode).toMatch(
      /^One decoded token: [\d.]+ ms, at best [\d.]+ ms on a machine of \d+ GFLOP\/s and [\d.]+ GB\/s\n/,
    );
    expect(decode).toMatch(/^matmul 1×\d+ · \d+×\d+ᵀ bf16 +\d+ +[\d.]+ +[\d.]+% /m);
    expect(step).toStartWith("One training step of the first four rows: ");
    for (const call of ["linearCrossEntropy", "attentionBackward", "lowRank"]) expect(step).toContain(call);
    for (const table of [decode, step]) {
      expect(table).toMatch(/^between calls +[\d.]+ +[\d.]+%$/m);
      expect(table).toMatch(/^all +\d+ +[\d.]+ +100% /m);
    }
    const { stdout: json } = await bench("--profile", "--json", "--only", "prefill512_tokens_per_s");
    const { figure, rows, outside_s, peak_gflops } = JSON.parse(json);
    expect(figure).toBe("prefill512_tokens_per_s");
    expect(Math.min(outside_s, peak_gflops)).toBeGreaterThan(0);
    const product = rows.find(({ primitive }: { primitive: string }) => primitive === "matmul");
    expect(product).toMatchObject({ calls: expect.any(Number), flops: expect.any(Number), bytes: expect.any(Number) });
  });

  test("--only, for people; an unknown figure is wrong usage", async () => {
    const { stdout } = await bench("--only", "load_s");
    expect(stdout).toMatch(/^load_s +\d+\.\d\d {3}\(.* of memory, .* of it files; cpu \w+, \d+ threads\)\n$/);
    const wrong = await bench("--only", "speed");
    expect(wrong.stderr).toContain("argument 'speed' is invalid. It must be of load_s, prefill512_tokens_per_s");
    expect([wrong.status, wrong.stdout]).toEqual([2, ""]);
  });
});
