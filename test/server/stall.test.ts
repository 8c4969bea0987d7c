/** A model's thread that stands still is ended and started again: in a server process of its own. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { ROOT } from "../support/process.ts";

setDefaultTimeout(60_000);

describe.each(["computing", "waiting"] as const)("a thread that stands still, %s", (how) => {
  test("its requests fail clearly, health tells the truth, and later ones are answered within seconds", async () => {
    const script = join(ROOT, "test/support/stalling-server.ts");
    await using server = Bun.spawn([process.execPath, script, how, "2"], { stdout: "pipe", stderr: "inherit" });
    const first = await server.stdout.getReader().read();
    const url = new TextDecoder().decode(first.value).trim();
    const post = (body: object): Promise<Response> =>
      fetch(`${url}/chat`, { method: "POST", body: JSON.stringify(body) });
    const health = async (): Promise<string> => {
      const { status, ok } = await fetch(`${url}/health`).then(async (r) => ({ ...(await r.json()), ok: r.ok }));
      expect(ok).toBe(status === "ok");
      return status;
    };
    const before = await post({ message: "免费空间有多大?", max_tokens: 5 });
    expect(before.status).toBe(200);
    const { reply } = (await before.json()) as { reply: string };
    const long = { message: "x", max_tokens: 900, temperature: 2, stream: true };
    const stream = (await post(long)).body!.getReader();
    await stream.read();
    expect(await health()).toBe("ok");

    server.kill("SIGUSR2");
    const asked = post({ message: "y" });
    const seen = new Set<string>();
    const begin = performance.now();
    for (let status = await health(); !seen.has("restarting") || status !== "ok"; status = await health()) {
      seen.add(status);
      if (performance.now() - begin > 40_000) throw new Error(`saw only ${[...seen].join(", ")}`);
      await Bun.sleep(20);
    }
    expect([...seen]).toEqual(["ok", "stalled", "restarting"]);

    let rest = "";
    for (let next = await stream.read(); !next.done; next = await stream.read()) {
      rest += new TextDecoder().decode(next.value);
    }
    expect(rest).toContain('data: {"error":{"message":"the engine stood still and is started again"');
    expect(rest).not.toContain("[DONE]");
    const failed = await asked;
    expect([failed.status, failed.headers.get("retry-after")]).toEqual([503, "2"]);
    expect(await failed.text()).toContain("the engine stood still and is started again");

    const after = await post({ message: "免费空间有多大?", max_tokens: 5 });
    expect([after.status, ((await after.json()) as { reply: string }).reply]).toEqual([200, reply]);
    server.kill("SIGKILL");
  });
});
