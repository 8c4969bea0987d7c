import { existsSync } from "node:fs";
import { availableParallelism } from "node:os";
import { CommandError } from "@tslm/cli";
import type { z } from "zod";
import { askServer } from "./client.ts";
import { type Measured, measure, measured, type order } from "./measure.ts";

/** What a run of the bench was given. */
export interface Given {
  /** Folder of the model, and the GGUF file that llama.cpp reads too. */
  readonly model: string;
  readonly gguf?: string;
  readonly llamaServer?: string;
  readonly threads?: number;
  readonly signal: AbortSignal;
}

type Order = z.output<typeof order>;

/** Weights of ours: the folder's as they are, rounded to 8 or 4 bits, or as the GGUF file has them. */
const WEIGHTS = ["bf16", "q8", "q4", "gguf"] as const;
type Weights = (typeof WEIGHTS)[number];

/** `engine:` is ours without HTTP. */
export const CONTENDERS = [...WEIGHTS, "llama.cpp", ...WEIGHTS.map((weights) => `engine:${weights}` as const)] as const;
export type Contender = (typeof CONTENDERS)[number];
export const isOurs = (contender: Contender): boolean => contender !== "llama.cpp";

/** Positions of each of llama.cpp's slots: what the questions and their answers need. */
const SLOT_POSITIONS = 768;
const READY_MS = 120_000;
const END_MS = 5000;

/** Why a contender cannot be measured; undefined where it can. */
export function missing(contender: Contender, { gguf, llamaServer }: Given): string | undefined {
  if (contender !== "llama.cpp") return contender.endsWith("gguf") && !gguf ? "it needs --gguf FILE" : undefined;
  if (!gguf) return "it needs --gguf FILE";
  if (!llamaServer) return "llama-server is not on the path; give it with --llama-server FILE";
  return existsSync(llamaServer) ? undefined : `there is no file ${llamaServer}`;
}

/** Measures a contender in a process of its own. @throws CommandError when it fails */
export async function measureContender(contender: Contender, order: Order, given: Given): Promise<Measured> {
  if (contender.startsWith("engine:")) return await measureEngine(weightsOf(contender, given), order, given);
  const port = freePort();
  const [command, ready] =
    contender === "llama.cpp" ? llamaCommand(port, order, given) : serveCommand(contender, port, order, given);
  await using server = await start(contender, command, `http://127.0.0.1:${port}`, ready, given.signal);
  return await measure(await askServer(server.url), order);
}

/** Weights as options name them. */
function weightsOf(contender: Contender, { model, gguf }: Given) {
  const weights = contender.replace("engine:", "") as Weights;
  if (weights === "gguf") return { model: gguf! };
  return { model, ...(weights !== "bf16" && { quantize: weights }) };
}

const script = (path: string): string => Bun.fileURLToPath(new URL(path, import.meta.url));

function serveCommand(contender: Contender, port: number, { streams }: Order, given: Given): [string[], string] {
  const { model, quantize } = weightsOf(contender, given);
  return [
    [
      ...[process.execPath, script("../../../packages/cli/src/bin/serve.ts"), "--model", model, "--port", `${port}`],
      ...["--concurrency", `${streams}`, "--queue", `${streams}`],
      ...(quantize ? ["--quantize", quantize] : []),
      ...(given.threads ? ["--threads", `${given.threads}`] : []),
    ],
    "/ready",
  ];
}

function llamaCommand(port: number, { streams }: Order, { llamaServer, gguf, threads }: Given): [string[], string] {
  const cores = `${threads ?? availableParallelism()}`;
  return [
    [
      ...[llamaServer!, "--model", gguf!, "--host", "127.0.0.1", "--port", `${port}`],
      ...["--parallel", `${streams}`, "--ctx-size", `${streams * SLOT_POSITIONS}`],
      ...["--threads", cores, "--threads-batch", cores],
    ],
    "/health",
  ];
}

/** Starts a server and waits until it answers at `ready`; it is ended with its scope. */
async function start(name: string, command: string[], url: string, ready: string, signal: AbortSignal) {
  const child = Bun.spawn(command, { stdin: "ignore", stdout: "ignore", stderr: "pipe", signal });
  let said = "";
  const listening = (async () => {
    const decoder = new TextDecoder();
    for await (const bytes of child.stderr) said = (said + decoder.decode(bytes, { stream: true })).slice(-2000);
  })();
  const end = async (): Promise<void> => {
    child.kill("SIGTERM");
    const timer = setTimeout(() => child.kill("SIGKILL"), END_MS);
    await Promise.all([child.exited, listening]);
    clearTimeout(timer);
  };
  const deadline = performance.now() + READY_MS;
  const isReady = (): Promise<boolean> =>
    fetch(`${url}${ready}`).then(
      ({ ok }) => ok,
      () => false,
    );
  while (!(await isReady())) {
    if (child.exitCode === null && performance.now() < deadline) {
      await Bun.sleep(50);
      continue;
    }
    await end();
    signal.throwIfAborted();
    throw new CommandError(`${name} does not answer: ${said.trim() || "it said nothing"}`);
  }
  return { url, [Symbol.asyncDispose]: end };
}

async function measureEngine(weights: object, order: Order, { threads, signal }: Given): Promise<Measured> {
  const given = JSON.stringify({ ...order, ...weights, threads });
  const child = Bun.spawn([process.execPath, script("./engine.ts"), given], {
    stdout: "pipe",
    stderr: "inherit",
    signal,
  });
  const printed = await new Response(child.stdout).text();
  signal.throwIfAborted();
  if ((await child.exited) !== 0) throw new CommandError("the engine alone could not be measured");
  return measured.parse(JSON.parse(printed));
}

/** A port that nothing listens at now. */
function freePort(): number {
  const server = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
  const { port } = server;
  server.stop(true);
  return port;
}
