import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { flood } from "../support/flood.ts";
import { ROOT, temporaryFolder } from "../support/process.ts";
import { type Served, serveProcess } from "../support/server.ts";

setDefaultTimeout(60_000);

const NGINX =
  Bun.which("nginx") ?? (Bun.spawnSync(["test", "-x", "/usr/sbin/nginx"]).success ? "/usr/sbin/nginx" : null);
if (!NGINX) console.warn("skipped: no nginx here; install Debian's nginx-light");

const KEY = "s3cret";

const freePort = (): number => {
  const server = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
  const { port } = server;
  server.stop(true);
  return port;
};

describe.skipIf(!NGINX)("two servers behind nginx, as deploy/nginx.conf has it", () => {
  let home: Awaited<ReturnType<typeof temporaryFolder>>;
  let replicas: Served[] = [];
  let proxy: Bun.Subprocess;
  let url = "";

  beforeAll(async () => {
    home = await temporaryFolder();
    replicas = await Promise.all(
      [1, 2].map(() =>
        serveProcess([
          "--model",
          "demo",
          "--api-key",
          KEY,
          "--threads",
          "1",
          "--log-level",
          "error",
          "--cache-mb",
          "16",
        ]),
      ),
    );
    const port = freePort();
    url = `http://127.0.0.1:${port}`;
    const [first, second] = replicas.map((replica) => new URL(replica.url).port);
    const site = readFileSync(join(ROOT, "deploy/nginx.conf"), "utf8")
      .replace("127.0.0.1:8001", `127.0.0.1:${first}`)
      .replace("127.0.0.1:8002", `127.0.0.1:${second}`)
      .replace("client_header_timeout 10s", "client_header_timeout 1s")
      .replace("client_body_timeout 10s", "client_body_timeout 1s")
      .replace("listen 8080", `listen 127.0.0.1:${port}`);
    const places = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(
      (name) => `${name}_temp_path ${join(home.path, name)};`,
    );
    await mkdir(join(home.path, "logs"), { recursive: true });
    const config = join(home.path, "nginx.conf");
    await writeFile(
      config,
      `pid ${home.path}/pid; error_log stderr crit; daemon off; master_process off; events {}
       http { access_log off; ${places.join(" ")} ${site} }`,
    );
    proxy = Bun.spawn([NGINX!, "-p", home.path, "-c", config], { stdout: "ignore", stderr: "inherit" });
    for (let i = 0; i < 200; i++) {
      if (
        await fetch(`${url}/ready`).then(
          (r) => r.ok,
          () => false,
        )
      )
        break;
      await Bun.sleep(20);
    }
  });
  afterAll(async () => {
    proxy?.kill();
    await proxy?.exited;
    for (const replica of replicas) await replica[Symbol.asyncDispose]();
    await home[Symbol.asyncDispose]();
  });

  const chat = (sticky: string, rest: object = {}) =>
    fetch(`${url}/chat`, {
      method: "POST",
      headers: { "X-Sticky": sticky, Authorization: `Bearer ${KEY}` },
      body: JSON.stringify({ message: "免费空间有多大?", max_tokens: 4, ...rest }),
    });

  test("what has one name reaches one server, and all are used", async () => {
    const servers = new Map<string, Set<string>>();
    for (let round = 0; round < 2; round++) {
      for (let i = 0; i < 12; i++) {
        const response = await chat(`talk ${i}`);
        expect(response.status).toBe(200);
        const seen = servers.get(`talk ${i}`) ?? new Set();
        servers.set(`talk ${i}`, seen.add(response.headers.get("x-served-by")!));
      }
    }
    for (const seen of servers.values()) expect(seen.size).toBe(1);
    expect(new Set([...servers.values()].flatMap((seen) => [...seen])).size).toBe(2);
  });

  test("streams pass piece by piece", async () => {
    const response = await chat("x", { stream: true, max_tokens: 900, temperature: 2 });
    const reader = response.body!.getReader();
    const first = new TextDecoder().decode((await reader.read()).value);
    expect(first).toStartWith('data: {"delta"');
    expect(first).not.toContain("[DONE]");
    await reader.cancel();
  });

  test("floods end at the proxy: what is slow is let go, what is too many is told so", async () => {
    const files = () => replicas.map(({ running }) => readdirSync(`/proc/${running.process.pid}/fd`).length);
    const before = files();
    const silent = await flood({ url, connections: 150, send: "" });
    const slow = `POST /chat HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 90\r\n\r\n{`;
    const bodies = await flood({ url, connections: 150, send: slow });
    while (bodies.closed < 150 || silent.closed < 150) await Bun.sleep(20);
    expect(bodies.statuses).toEqual({ 429: 150 - 64 });
    expect(bodies.last[429]).toContain("Retry-After: 5");
    expect(bodies.last[429]).toContain('{"error":{"message":"too many connections from your address');
    // Nothing of it reached the servers.
    files().forEach((count, i) => void expect(count - before[i]).toBeLessThan(3));
    const large = await fetch(`${url}/chat`, { method: "POST", body: "x".repeat(2 << 20) });
    expect([large.status, ((await large.json()) as { error: { type: string } }).error.type]).toEqual([
      413,
      "too_large",
    ]);
    expect((await chat("x")).status).toBe(200);
  });

  test("when one ends, the other answers for it", async () => {
    const ends = replicas[0].running;
    const going = Array.from({ length: 12 }, (_, i) => chat(`talk ${i}`, { max_tokens: 40 }));
    ends.process.kill("SIGTERM");
    for (const response of await Promise.all(going)) expect(response.status).toBe(200);
    expect((await ends.ended()).status).toBe(0);
    const after = await Promise.all(Array.from({ length: 12 }, (_, i) => chat(`talk ${i}`)));
    expect(after.map(({ status }) => status)).toEqual(Array(12).fill(200));
  });
});

const ANALYZE = Bun.which("systemd-analyze");
test.skipIf(!ANALYZE)("the systemd unit is in order", async () => {
  const child = Bun.spawn([ANALYZE!, "verify", "--man=no", join(ROOT, "deploy/tslm.service")], { stderr: "pipe" });
  const told = (await new Response(child.stderr).text()).split("\n").filter((line) => line.includes("tslm.service"));
  await child.exited;
  // That the program is not installed at its place here is no fault of the unit.
  expect(told.filter((line) => !/is not executable|Command .* not found/.test(line))).toEqual([]);
});
