import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import {
  chmod,
  mkdir,
  mkdtemp,
  readFile,
  readlink,
  rm,
  stat,
  symlink,
  truncate,
  utimes,
  writeFile,
} from "node:fs/promises";
import { hostname, tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { findCached } from "./cache.ts";
import { type DownloadOptions, type DownloadProgress, downloadModel } from "./download.ts";
import { HubError, type HubErrorCode } from "./errors.ts";
import { HUB_SOURCES, type HubSource } from "./protocols.ts";
import { expectedDir, type FakeHub, fakeModelHub, FakeHub as Hub, pseudoRandom } from "./testdata/fake-hub.ts";

const MODEL = "Qwen/Qwen2.5-0.5B-Instruct";
const WEIGHTS = "model.safetensors";
const http = {
  connectTimeout: 2000,
  idleTimeout: 150,
  retries: 3,
  retryDelay: 5,
  maxRetryDelay: 20,
  maxRetryAfter: 3000,
};

let hub: FakeHub;
let cache: string;
beforeEach(async () => {
  hub = await fakeModelHub(MODEL);
  cache = await mkdtemp(join(tmpdir(), "tslm-hub-"));
});
afterEach(async () => {
  await hub.stop();
  await rm(cache, { recursive: true, force: true });
});

const download = (source: HubSource, options: Partial<DownloadOptions> = {}) =>
  downloadModel({ model: MODEL, source, endpoint: hub.endpoint, cache, http, env: {}, ...options });

async function failure(run: Promise<unknown>, code: HubErrorCode): Promise<string> {
  const error = await run.then(
    () => undefined,
    (error) => error,
  );
  expect(error).toBeInstanceOf(HubError);
  expect(error.code).toBe(code);
  return error.message;
}

/** Every regular file and link under the cache, for looking at what is left. */
function left(dir = cache): string[] {
  return readdirSync(dir, { recursive: true, withFileTypes: true })
    .filter((entry) => !entry.isDirectory())
    .map((entry) => join(entry.parentPath, entry.name).slice(dir.length + 1))
    .sort();
}
const partials = () => left().filter((name) => name.endsWith(".tslm.incomplete"));

function checkWhole(dir: string): void {
  for (const name of ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", WEIGHTS]) {
    expect(readFileSync(join(dir, name)).equals(Buffer.from(hub.files.get(name)!))).toBe(true);
  }
}

describe.each(HUB_SOURCES)("%s", (source) => {
  test("brings what is needed, nothing else, into the place of the hub's own tools", async () => {
    const { dir, ...rest } = await download(source);
    expect(rest).toEqual({ source, downloaded: true });
    expect(dir).toBe(join(cache, expectedDir(source)));
    checkWhole(dir);
    expect(hub.requests.some((r) => r.what === "README.md" || r.what === "pytorch_model.bin")).toBe(false);
    expect(existsSync(join(dir, "README.md"))).toBe(false);
    expect(partials()).toEqual([]);
    expect(left().some((name) => name.endsWith(".lock"))).toBe(false);
  });

  test("a second run touches no network", async () => {
    const first = await download(source);
    hub.requests.length = 0;
    expect(await download(source)).toEqual({ ...first, downloaded: false });
    expect(hub.requests).toEqual([]);
  });

  test("progress: only forward, ends with everything", async () => {
    const seen: DownloadProgress[] = [];
    await download(source, { onProgress: (progress) => seen.push(progress) });
    expect(seen[0]).toMatchObject({ phase: "listing", bytes: 0, model: MODEL, source });
    const total = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", WEIGHTS]
      .map((name) => hub.files.get(name)!.length)
      .reduce((a, b) => a + b);
    expect(seen.at(-1)).toMatchObject({ bytes: total, totalBytes: total, files: 5, totalFiles: 5 });
    for (let i = 1; i < seen.length; i++) expect(seen[i]!.bytes).toBeGreaterThanOrEqual(seen[i - 1]!.bytes);
  });

  test.each([["truncate"], ["reset"], ["stall"]] as const)(
    "a connection that %ss is continued by Range",
    async (fault) => {
      hub.fault(WEIGHTS, fault);
      const retries: string[] = [];
      const { dir } = await download(source, { onProgress: (p) => p.retry && retries.push(p.retry.reason) });
      checkWhole(dir);
      const asked = hub.served(WEIGHTS);
      expect(asked).toHaveLength(2);
      expect(asked[1]!.range).toBe("bytes=100000-");
      expect(retries).toHaveLength(1);
    },
  );

  test("a hub that gives no useful answer in time is given up, whatever the attempts left", async () => {
    hub.listFaults.push(...Array(100).fill({ status: 503 }));
    const patient = { ...http, retries: 100, maxRetryDelay: 1000, reachTimeout: 300 };
    const says = await failure(download(source, { http: patient }), "unavailable");
    expect(says).toContain("cannot be reached: status 503");
    expect(says).toContain("check the network");
  });

  test("failures in a row end it; the next run continues where it broke off", async () => {
    hub.fault(WEIGHTS, "truncate", "truncate", "truncate", "truncate");
    const says = await failure(download(source), "unavailable");
    expect(says).toContain(WEIGHTS);
    expect(says).toContain("tried 4 times");
    expect(says).toContain("what has arrived is kept");
    expect(partials()).toHaveLength(1);
    expect((await stat(join(cache, partials()[0]!))).size).toBe(187_500);
    expect(existsSync(join(cache, expectedDir(source), WEIGHTS))).toBe(false);
    hub.requests.length = 0;
    checkWhole((await download(source)).dir);
    expect(hub.served(WEIGHTS).map((r) => r.range)).toEqual(["bytes=187500-"]);
    expect(hub.served("config.json")).toEqual([]);
  });

  test("a server that ignores Range: the file starts over", async () => {
    hub.fault(WEIGHTS, "truncate", "ignore-range");
    const bytes: number[] = [];
    const { dir } = await download(source, { onProgress: (p) => p.file === WEIGHTS && bytes.push(p.bytes) });
    checkWhole(dir);
    expect(hub.served(WEIGHTS)).toHaveLength(2);
    expect(bytes.some((n, i) => n < (bytes[i - 1] ?? 0))).toBe(true); // and says so
  });

  test.each([
    ["wrong-range", "another part"],
    ["no-range", "416"],
  ] as const)("%s: the file starts over", async (fault, reason) => {
    hub.fault(WEIGHTS, "truncate", fault);
    const reasons: string[] = [];
    checkWhole((await download(source, { onProgress: (p) => p.retry && reasons.push(p.retry.reason) })).dir);
    expect(hub.served(WEIGHTS).map((r) => r.range)).toEqual([null, "bytes=100000-", null]);
    expect(reasons[1]).toContain(reason);
  });

  test("a partial file of another content is noticed by its checksum and replaced", async () => {
    hub.fault(WEIGHTS, "truncate", "truncate", "truncate", "truncate");
    await failure(download(source), "unavailable");
    await writeFile(join(cache, partials()[0]!), pseudoRandom(150_000, 7));
    checkWhole((await download(source)).dir);
  });

  test("a partial file longer than the file starts over", async () => {
    hub.fault(WEIGHTS, "truncate", "truncate", "truncate", "truncate");
    await failure(download(source), "unavailable");
    await truncate(join(cache, partials()[0]!), 300_000);
    checkWhole((await download(source)).dir);
  });

  test.each([["corrupt"], ["longer"]] as const)(
    "%s content: tried once more, then refused and not kept",
    async (fault) => {
      hub.fault(WEIGHTS, fault);
      checkWhole((await download(source)).dir);
      expect(hub.served(WEIGHTS)).toHaveLength(2);

      await rm(cache, { recursive: true });
      hub.fault(WEIGHTS, fault, fault);
      const says = await failure(download(source), "checksum");
      expect(says).toContain(fault === "corrupt" ? "sha256" : "more than the 200000 bytes");
      expect(existsSync(join(cache, expectedDir(source), WEIGHTS))).toBe(false);
      for (const name of partials()) expect((await stat(join(cache, name))).size).toBe(0);
    },
  );

  test("small files are checked, too", async () => {
    hub.fault("config.json", "corrupt", "corrupt");
    expect(await failure(download(source), "checksum")).toContain("config.json");
    expect(hub.served(WEIGHTS)).toEqual([]); // weights come after everything else
  });

  test.each([500, 502, 503, 408])("status %d passes", async (status) => {
    hub.listFaults.push({ status });
    hub.fault(WEIGHTS, { status });
    checkWhole((await download(source)).dir);
  });

  test("429 waits as long as Retry-After says", async () => {
    hub.fault("config.json", { status: 429, retryAfter: "1" });
    const waits: number[] = [];
    checkWhole((await download(source, { onProgress: (p) => p.retry && waits.push(p.retry.delay) })).dir);
    expect(waits).toEqual([1000]);
  });

  test("429 that asks for hours is an error that says so", async () => {
    hub.listFaults.push({ status: 429, retryAfter: "7200" });
    expect(await failure(download(source), "rate-limited")).toContain("7200 s");
  });

  test("status 404 for a file that is listed", async () => {
    hub.fault(WEIGHTS, { status: 404 });
    expect(await failure(download(source), "not-found")).toContain(`${WEIGHTS} of ${MODEL}`);
  });

  test("an unknown model, an unknown revision", async () => {
    const unknown = await failure(
      download(source, { model: "Qwen/Nothing" }),
      source === "huggingface" ? "unauthorized" : "not-found",
    );
    expect(unknown).toContain("Qwen/Nothing");
    expect(unknown).toContain("check the name");
    expect(await failure(download(source, { revision: "v9" }), "not-found")).toContain("v9");
    expect(left()).toEqual([]);
  });

  test("a private model needs the token; it goes to the hub and never to the CDN", async () => {
    hub.token = "secret";
    await failure(download(source), source === "huggingface" ? "unauthorized" : "not-found");
    checkWhole((await download(source, { token: "secret" })).dir);
    const names = { huggingface: "HF_TOKEN", modelscope: "MODELSCOPE_API_TOKEN" };
    await rm(cache, { recursive: true });
    checkWhole((await download(source, { env: { [names[source]]: "secret" } })).dir);
    for (const request of hub.requests.filter((r) => r.at === "cdn")) {
      expect([request.authorization, request.cookie]).toEqual([null, null]);
    }
  });

  test("files come in parallel; aborted half-way, only a partial file that can be continued is left", async () => {
    hub.files.delete(WEIGHTS);
    const shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    shards.forEach((name, i) => {
      hub.files.set(name, pseudoRandom(50_000, i + 2));
      hub.fault(name, "half-then-wait");
    });
    const map = Object.fromEntries(shards.map((name, i) => [`tensor${i}`, name]));
    hub.files.set("model.safetensors.index.json", new TextEncoder().encode(JSON.stringify({ weight_map: map })));

    const abort = new AbortController();
    const onProgress = (p: DownloadProgress) => {
      // Both are half-way at once, so neither waited for the other.
      if (p.phase === "downloading" && p.bytes >= p.totalBytes - 50_000) abort.abort();
    };
    const run = download(source, { signal: abort.signal, onProgress });
    await expect(run).rejects.toThrow("abort");
    expect(partials()).toHaveLength(2);
    const dir = join(cache, expectedDir(source));
    for (const name of shards) expect(existsSync(join(dir, name))).toBe(false);
    expect(left().some((name) => name.endsWith(".lock"))).toBe(false);

    hub.requests.length = 0;
    await download(source);
    for (const name of shards) {
      expect(readFileSync(join(dir, name)).equals(Buffer.from(hub.files.get(name)!))).toBe(true);
      expect(hub.served(name).map((r) => r.range)).toEqual(["bytes=25000-"]);
    }
  });

  test("only the weight files that the index names are brought", async () => {
    const part = "model-00001-of-00001.safetensors";
    hub.files.set(part, pseudoRandom(10, 3));
    hub.files.set(
      "model.safetensors.index.json",
      new TextEncoder().encode(JSON.stringify({ weight_map: { t: part } })),
    );
    const { dir } = await download(source);
    expect(existsSync(join(dir, part))).toBe(true);
    expect(hub.served(WEIGHTS)).toEqual([]);
  });

  test.each<[string, unknown]>([
    ["a name outside the folder", { weight_map: { t: "../../evil.safetensors" } }],
    ["no map", { weight_map: 3 }],
    ["nothing", { weight_map: {} }],
  ])("an index with %s", async (_, index) => {
    hub.files.set("model.safetensors.index.json", new TextEncoder().encode(JSON.stringify(index)));
    await failure(download(source), "protocol");
  });

  test("an index that names a file which is not there", async () => {
    const index = { weight_map: { t: "model-00001-of-00009.safetensors" } };
    hub.files.set("model.safetensors.index.json", new TextEncoder().encode(JSON.stringify(index)));
    expect(await failure(download(source), "not-found")).toContain("model-00001-of-00009.safetensors");
  });

  test("two downloads at once: one waits for the other, each file comes once", async () => {
    hub.fault(WEIGHTS, "half-then-wait");
    const phases = new Set<string>();
    const first = download(source);
    while (hub.served(WEIGHTS).length === 0) await Bun.sleep(5);
    const second = download(source, { onProgress: (p) => phases.add(p.phase) });
    while (!phases.has("waiting")) await Bun.sleep(5);
    hub.release();
    const [a, b] = await Promise.all([first, second]);
    expect(a.dir).toBe(b.dir);
    checkWhole(a.dir);
    expect(hub.served(WEIGHTS)).toHaveLength(1);
  });

  test("a dead process's lock is taken over", async () => {
    hub.fault(WEIGHTS, "half-then-wait");
    const abort = new AbortController();
    const run = download(source, { signal: abort.signal });
    while (hub.served(WEIGHTS).length === 0) await Bun.sleep(5);
    const lock = join(cache, left().find((name) => name.endsWith(".lock"))!);
    abort.abort();
    await expect(run).rejects.toThrow("abort");

    const dead = Bun.spawnSync(["true"]);
    await writeFile(lock, JSON.stringify({ pid: dead.pid, host: hostname() }));
    checkWhole((await download(source)).dir);
    // On another machine's disk: by age.
    await rm(join(cache, expectedDir(source), "config.json"));
    await writeFile(lock, JSON.stringify({ pid: 1, host: "elsewhere" }));
    await utimes(lock, new Date(0), new Date(0));
    checkWhole((await download(source)).dir);
  });

  const entry = (path: string) =>
    source === "huggingface"
      ? { type: "file", path, size: 10, oid: "0".repeat(40) }
      : { Path: path, Type: "blob", Size: 10, Sha256: "0".repeat(64) };

  test.each([
    "../evil.safetensors",
    "/etc/passwd",
    "a/../../b/config.json",
    "..",
    "C:\\config.json",
    "..\\config.json",
    "a//b",
    "config.json\u0000.txt",
    "line\nbreak.json",
  ])("a listed name %j is refused and nothing is written", async (name) => {
    hub.editList = (entries) => [...entries, entry(name)];
    expect(await failure(download(source), "protocol")).toContain("outside the model's folder");
    expect(left()).toEqual([]);
  });

  test("harmless names of other files do not matter", async () => {
    hub.editList = (entries) => [
      ...entries,
      entry("figures/图 1.png"),
      entry("model.gguf"),
      entry("notes: read me.txt"),
    ];
    checkWhole((await download(source)).dir);
  });

  test("one file listed twice, or in two cases", async () => {
    hub.editList = (entries) => [...entries, entry("model-A.safetensors"), entry("model-a.safetensors")];
    expect(await failure(download(source), "protocol")).toContain("twice");
  });

  test.each<[string, HubErrorCode, string, (entries: Record<string, unknown>[]) => unknown]>([
    ["no file list", "protocol", "no file list", () => ({ hello: "world" })],
    ["a list of nonsense", "protocol", "no file list", () => [1, 2, 3]],
    ["an empty list", "not-found", "config.json", () => []],
    ["a negative size", "protocol", "no file list", (e) => e.map((x) => ({ ...x, size: -1, Size: -1 }))],
    [
      "a checksum that is none",
      "protocol",
      "",
      (e) => e.map((x) => ({ ...x, oid: "../../x", lfs: undefined, Sha256: "../../x" })),
    ],
    ["a model larger than the limit", "too-large", "the limit is", (e) => grow(e, WEIGHTS, 9e15)],
    ["a config of a gigabyte", "too-large", "config.json", (e) => grow(e, "config.json", 1e9)],
    ["a list of 20 MB", "too-large", "that is no file list", (e) => [...e, { padding: "x".repeat(20 << 20) }]],
  ])("a hub that answers with %s", async (_, code, says, edit) => {
    hub.editList = edit;
    expect(await failure(download(source), code)).toContain(says);
    expect(left()).toEqual([]);
  });

  test("a file that a disk of this size cannot hold is refused before it is full", async () => {
    hub.editList = (e) => grow(e, WEIGHTS, 5e14);
    const says = await failure(download(source, { maxBytes: 1e15 }), "disk-full");
    expect(says).toContain("500 TB more in ");
    expect(says).toContain("are free");
    expect(hub.served(WEIGHTS)).toEqual([]);
  });

  test("a redirect to another protocol is not followed", async () => {
    hub.redirect = "file:///etc/passwd";
    expect(await failure(download(source), "protocol")).toContain("which is not followed");
  });

  test("a redirect in circles ends", async () => {
    hub.redirect =
      source === "huggingface"
        ? `/${MODEL}/resolve/${Hub.COMMIT}/config.json`
        : `/api/v1/models/${MODEL}/repo?Revision=master&FilePath=config.json`;
    expect(await failure(download(source), "protocol")).toContain("redirects more than 8 times");
  });

  test("a link in place of the partial file is not followed", async () => {
    const victim = join(cache, "victim");
    await writeFile(victim, "keep me");
    hub.fault(WEIGHTS, "truncate", "truncate", "truncate", "truncate");
    await failure(download(source), "unavailable");
    const partial = join(cache, partials()[0]!);
    await rm(partial);
    await symlink(victim, partial);
    checkWhole((await download(source)).dir);
    expect(await readFile(victim, "utf8")).toBe("keep me");
  });

  test.skipIf(process.getuid?.() === 0)(
    "a cache that cannot be written (skipped as root, who always may)",
    async () => {
      await chmod(cache, 0o500);
      expect(await failure(download(source), "storage")).toContain("permission denied");
    },
  );

  test("a file where the cache should be", async () => {
    const file = join(cache, "file");
    await writeFile(file, "");
    expect(await failure(download(source, { cache: file }), "storage")).toContain("choose another cache folder");
  });
});

function grow(entries: Record<string, unknown>[], name: string, size: number): unknown {
  return entries.map((e) =>
    e.path === name || e.Path === name
      ? { ...e, size, Size: size, ...(e.lfs ? { lfs: { ...(e.lfs as object), size } } : {}) }
      : e,
  );
}

describe("Hugging Face's own", () => {
  test("snapshots are links to blobs named by checksum; refs name the commit", async () => {
    const { dir } = await download("huggingface");
    const target = await readlink(join(dir, WEIGHTS));
    expect(target).toMatch(/^\.\.\/\.\.\/blobs\/[0-9a-f]{64}$/);
    expect(await readlink(join(dir, "config.json"))).toMatch(/^\.\.\/\.\.\/blobs\/[0-9a-f]{40}$/);
    expect(await readFile(join(dir, "../../refs/main"), "utf8")).toBe(Hub.COMMIT);
  });

  test("a blob that is there already is not brought again, whatever asked for it", async () => {
    await download("huggingface");
    hub.requests.length = 0;
    const { dir } = await download("huggingface", { revision: "refs/pr/1" });
    checkWhole(dir);
    expect(hub.served(WEIGHTS)).toEqual([]);
    expect(await readFile(join(dir, "../../refs/refs/pr/1"), "utf8")).toBe(Hub.COMMIT);
    expect(hub.requests[0]!.path).toContain("refs%2Fpr%2F1");
  });

  test("a list of several pages", async () => {
    hub.pageSize = 2;
    checkWhole((await download("huggingface")).dir);
  });

  test("a next page elsewhere, or without end", async () => {
    hub.pageSize = 2;
    hub.nextPage = "http://example.invalid/api";
    expect(await failure(download("huggingface"), "protocol")).toContain("elsewhere");
    hub.nextPage = `${hub.endpoint}/api/models/${MODEL}/tree/${Hub.COMMIT}?cursor=0`;
    expect(await failure(download("huggingface"), "too-large")).toContain("more files");
  });

  test("a gated model", async () => {
    hub.listFaults.push({ status: 403, code: "GatedRepo" });
    expect(await failure(download("huggingface"), "unauthorized")).toContain("accept it at");
  });

  test("HF_ENDPOINT and HF_HUB_OFFLINE are respected", async () => {
    const env = { HF_ENDPOINT: `${hub.endpoint}/` };
    await failure(
      download("huggingface", { endpoint: undefined, env: { ...env, HF_HUB_OFFLINE: "1" } }),
      "unavailable",
    );
    expect(hub.requests).toEqual([]);
    checkWhole((await download("huggingface", { endpoint: undefined, env })).dir);
  });
});

describe("ModelScope's own", () => {
  test("the index of its tools, and the link for people", async () => {
    const { dir } = await download("modelscope");
    expect(await readFile(join(dir, ".mdl"), "utf8")).toBe(`(dVid\nV${MODEL}\ns.`);
    expect(await readFile(join(dir, ".msc"), "utf8")).toStartWith(
      `(l(dVPath\nVconfig.json\nsVRevision\nV${Hub.COMMIT}\nsa(dVPath\n`,
    );
    expect(await readFile(join(dir, ".mv"), "utf8")).toMatch(/^Revision:master,CreatedAt:\d+$/);
    expect(await readlink(join(dirname(dir), "Qwen2.5-0.5B-Instruct"))).toBe("Qwen2___5-0___5B-Instruct");
  });

  test("a folder in place of a file", async () => {
    await mkdir(join(cache, expectedDir("modelscope"), "config.json"), { recursive: true });
    expect(await failure(download("modelscope"), "storage")).toContain("a folder stands where a file is needed");
  });

  test("files that lie there are kept if their checksum is right, replaced if not", async () => {
    const { dir } = await download("modelscope");
    await rm(join(dir, "tokenizer.json"));
    await writeFile(join(dir, "config.json"), '{"model_type": "qwen3"}');
    hub.requests.length = 0;
    checkWhole((await download("modelscope")).dir);
    expect(
      hub.requests
        .filter((r) => r.at === "cdn")
        .map((r) => r.what)
        .sort(),
    ).toEqual(["config.json", "tokenizer.json"]);
  });

  test("interrupted on the way to another revision, the folder is no whole model", async () => {
    const { dir } = await download("modelscope");
    hub.files.set("config.json", new TextEncoder().encode('{"model_type": "qwen2", "new": 1}'));
    hub.files.set(WEIGHTS, pseudoRandom(1000, 5));
    hub.fault(WEIGHTS, ...Array(4).fill({ status: 500 }));
    await writeFile(join(dir, ".mv"), "Revision:v1,CreatedAt:0");
    await failure(download("modelscope", { revision: "master" }), "unavailable");
    expect(await findCached(MODEL, { cache })).toBeUndefined();
    checkWhole((await download("modelscope", { revision: "master" })).dir);
    expect((await findCached(MODEL, { cache, revision: "master" }))?.dir).toBe(dir);
  });

  test("a refusal in words, with status 200", async () => {
    hub.editList = () => ({ Code: 10010205001, Success: false, Message: "模型不存在" });
    expect(await failure(download("modelscope"), "not-found")).toContain("模型不存在");
  });

  test("a list without checksums is taken by its sizes", async () => {
    hub.editList = (entries) => entries.map((e) => ({ ...e, Sha256: "" }));
    checkWhole((await download("modelscope")).dir);
  });
});

describe("without a source", () => {
  test("ModelScope first; when it has not got the model, Hugging Face", async () => {
    const empty = await fakeModelHub("Other/Model");
    const env = { MODELSCOPE_ENDPOINT: empty.endpoint, HF_ENDPOINT: hub.endpoint };
    const { source, dir } = await downloadModel({ model: MODEL, cache, http, env });
    expect(source).toBe("huggingface");
    checkWhole(dir);
    await rm(cache, { recursive: true });
    const both = { MODELSCOPE_ENDPOINT: hub.endpoint, HF_ENDPOINT: empty.endpoint };
    expect((await downloadModel({ model: MODEL, cache, http, env: both })).source).toBe("modelscope");
    await empty.stop();
  });

  test("when neither answers, the error names both, soon", async () => {
    const env = { MODELSCOPE_ENDPOINT: "http://127.0.0.1:1", HF_ENDPOINT: "http://127.0.0.1:2" };
    const retries: unknown[] = [];
    const onProgress = (p: DownloadProgress) => p.retry && retries.push(p.retry);
    const says = await failure(downloadModel({ model: MODEL, cache, http, env, onProgress }), "unavailable");
    expect(says).toContain("127.0.0.1:1");
    expect(says).toContain("127.0.0.1:2");
    expect(says).toContain("check the network");
    expect(says).toContain("tried 2 times");
  });

  test("an endpoint is asked in ModelScope's protocol only", async () => {
    const { source } = await downloadModel({ model: MODEL, endpoint: hub.endpoint, cache, http, env: {} });
    expect(source).toBe("modelscope");
  });
});

describe("options that cannot be right", () => {
  test.each<[string, Partial<DownloadOptions>]>([
    ["a name without organisation", { model: "Qwen2.5" }],
    ["a name that climbs", { model: "../Qwen2.5" }],
    ["a name with dots too many", { model: "Qwen/.." }],
    ["a revision that climbs", { revision: "../main" }],
    ["a revision with an empty part", { revision: "a//b" }],
    ["an endpoint that is none", { endpoint: "modelscope" }],
    ["an endpoint with a password", { endpoint: "https://me:secret@modelscope.cn" }],
    ["an endpoint of another protocol", { endpoint: "ftp://modelscope.cn" }],
    ["no concurrency", { concurrency: 0 }],
    ["a token that would go unencrypted", { token: "secret", endpoint: "http://hub.example" }],
    ["a token with a line break", { token: "a\r\nx: y" }],
    ["an unknown source", { source: "github" as HubSource }],
  ])("%s", async (_, options) => {
    const message = await failure(download(options.source ?? "modelscope", options), "invalid");
    expect(message).not.toContain("secret");
    expect(hub.requests).toEqual([]);
  });
});

describe("a full disk", () => {
  // A real one: a tmpfs of two megabytes, which needs the right to mount.
  const small = join(tmpdir(), `tslm-small-${process.pid}`);
  const mount = async () => {
    await mkdir(small, { recursive: true });
    return (
      Bun.spawnSync(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", small], { stderr: "ignore" }).exitCode === 0
    );
  };

  test("is told in a sentence; what has arrived is kept and continued", async () => {
    if (process.platform !== "linux" || !(await mount())) {
      console.warn("skipped: a file system of two megabytes cannot be mounted here");
      return;
    }
    try {
      hub.files.set(WEIGHTS, pseudoRandom(1_500_000));
      const filler = join(small, "filler");
      let filled = false;
      const onProgress = (p: DownloadProgress) => {
        // After the look at the free space somebody else fills the disk.
        if (filled || p.file !== WEIGHTS || p.phase !== "downloading") return;
        filled = true;
        const fill = Bun.spawnSync(["dd", "if=/dev/zero", `of=${filler}`, "bs=1k", "count=1000"], { stderr: "ignore" });
        expect(fill.exitCode).toBe(0);
      };
      const says = await failure(download("modelscope", { cache: small, onProgress }), "disk-full");
      expect(says).toContain("the disk is full while downloading model.safetensors (1.5 MB)");
      const kept = left(small).filter((name) => name.endsWith(".tslm.incomplete"));
      expect((await stat(join(small, kept[0]!))).size).toBeGreaterThan(0);
      await rm(filler);
      hub.requests.length = 0;
      checkWhole((await download("modelscope", { cache: small })).dir);
      expect(hub.served(WEIGHTS)[0]!.range).toMatch(/^bytes=[1-9]/);
    } finally {
      Bun.spawnSync(["umount", small]);
      await rm(small, { recursive: true, force: true });
    }
  });
});
