import { connect, createServer } from "node:net";

/** Debian's server of the package redis-server; undefined where it is not installed. */
export const REDIS_SERVER = Bun.which("redis-server") ?? Bun.which("valkey-server") ?? undefined;

export interface RedisServer extends AsyncDisposable {
  readonly url: string;
  /** Ends the server as a power cut would, and with it all that it holds. */
  kill(): Promise<void>;
  /** Starts it again at the same address. */
  start(): Promise<void>;
}

/** Starts a server on a free port of this machine that keeps nothing on the disk. */
export async function startRedis(folder: string): Promise<RedisServer> {
  const port = await freePort();
  let server: Bun.Subprocess | undefined;
  const start = async (): Promise<void> => {
    const options = [
      "--port",
      String(port),
      "--bind",
      "127.0.0.1",
      "--save",
      "",
      "--appendonly",
      "no",
      "--dir",
      folder,
    ];
    server = Bun.spawn([REDIS_SERVER!, ...options], { stdout: "ignore", stderr: "ignore" });
    for (let i = 0; ; i++) {
      if (await isListening(port)) return;
      if (i > 200) throw new Error("redis-server does not answer");
      await Bun.sleep(25);
    }
  };
  const kill = async (): Promise<void> => {
    server?.kill("SIGKILL");
    await server?.exited;
  };
  await start();
  return { url: `redis://127.0.0.1:${port}`, kill, start, [Symbol.asyncDispose]: kill };
}

function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer().on("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const { port } = server.address() as { port: number };
      server.close(() => resolve(port));
    });
  });
}

function isListening(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, "127.0.0.1");
    const end = (isThere: boolean) => () => {
      socket.destroy();
      resolve(isThere);
    };
    socket.on("connect", end(true)).on("error", end(false));
  });
}
