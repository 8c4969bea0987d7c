/** Connections by the thousand that want nothing, from this process to a server. */

/** What became of the connections of one flood. */
export interface Flood {
  readonly opened: number;
  /** Not taken at all. */
  readonly failed: number;
  readonly closed: number;
  /** First lines of answers: how many of each status. */
  readonly statuses: Readonly<Record<string, number>>;
  /** What the last answers said. */
  readonly last: Readonly<Record<string, string>>;
}

export interface FloodOptions {
  readonly url: string;
  readonly connections: number;
  /** What each sends at once, and no more. */
  readonly send: string;
  /** Leaves unread what comes. Default false. */
  readonly isDeaf?: boolean;
}

/** Connections opened at once: a test's own loop must not be a queue of thousands. */
const AT_ONCE = 200;

/** Opens connections and leaves them open; resolves when all are, or were refused. What becomes of them is told as it happens. */
export async function flood({ url, connections, send, isDeaf = false }: FloodOptions): Promise<Flood> {
  const { hostname, port } = new URL(url);
  const result = {
    opened: 0,
    failed: 0,
    closed: 0,
    statuses: {} as Record<string, number>,
    last: {} as Record<string, string>,
  };
  const bytes = Buffer.from(send);
  type State = { rest: Buffer; said: string };
  const write = (socket: Bun.Socket<State>): void => {
    socket.data.rest = socket.data.rest.subarray(socket.write(socket.data.rest));
  };
  const one = async (): Promise<void> => {
    try {
      await Bun.connect<State>({
        hostname,
        port: Number(port),
        data: { rest: bytes, said: "" },
        socket: {
          open(socket) {
            result.opened++;
            if (isDeaf) socket.pause();
            write(socket);
          },
          drain: write,
          data(socket, data) {
            if (isDeaf) return;
            const isFirst = socket.data.said === "";
            socket.data.said = (socket.data.said + data.toString()).slice(0, 2000);
            const status = /^HTTP\/1.1 (\d+)/.exec(socket.data.said)?.[1] ?? "none";
            if (isFirst) result.statuses[status] = (result.statuses[status] ?? 0) + 1;
            result.last[status] = socket.data.said;
          },
          close() {
            result.closed++;
          },
          error() {},
        },
      });
    } catch {
      result.failed++;
    }
  };
  for (let i = 0; i < connections; i += AT_ONCE) {
    await Promise.all(Array.from({ length: Math.min(AT_ONCE, connections - i) }, one));
  }
  return result;
}
