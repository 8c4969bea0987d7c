import { createHash } from "node:crypto";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import type { HubSource } from "../protocols.ts";

/**
 * What a server may do to a request for a file, instead of answering it well:
 * - `truncate`: end a body of unannounced length half-way; `reset`: break the connection half-way; `stall`: fall silent half-way
 * - `corrupt`: right size, wrong bytes; `longer`: more bytes than listed
 * - `ignore-range`: the whole file for a part; `wrong-range`: another part; `no-range`: status 416
 * - `half-then-wait`: half of the body, the rest when `release()` is called
 * - a number: that status, with `retry-after` where given
 */
export type Fault =
  | "truncate"
  | "reset"
  | "stall"
  | "corrupt"
  | "longer"
  | "ignore-range"
  | "wrong-range"
  | "no-range"
  | "half-then-wait"
  | { status: number; retryAfter?: string; code?: string };

export interface SeenRequest {
  /** `list` for the file lists, else the file's name. */
  what: string;
  path: string;
  range: string | null;
  authorization: string | null;
  cookie: string | null;
  /** Which server was asked. */
  at: "hub" | "cdn";
}

const sha256 = (content: Uint8Array) => createHash("sha256").update(content).digest("hex");
const gitSha1 = (content: Uint8Array) =>
  createHash("sha1").update(`blob ${content.length}\0`).update(content).digest("hex");

/** A loopback server that speaks Hugging Face's and ModelScope's protocols, with a second one as the CDN. */
export class FakeHub {
  static readonly COMMIT = "0123456789abcdef0123456789abcdef01234567";
  readonly files = new Map<string, Uint8Array>();
  readonly requests: SeenRequest[] = [];
  /** Changes what a list says of a file, or adds files that do not exist. */
  editList: (entries: Record<string, unknown>[]) => unknown = (entries) => entries;
  /** Answers to the next requests for the lists. */
  readonly listFaults: Fault[] = [];
  /** Models that exist; the token is needed if given. */
  readonly model: string;
  token: string | undefined;
  /** Entries in a page of Hugging Face's list. */
  pageSize = 1000;
  /** Where the second page is said to be. */
  nextPage: string | undefined;
  redirect: string | undefined;
  readonly #faults = new Map<string, Fault[]>();
  readonly #hub: Bun.Server<undefined>;
  // Node's server, because it can break a connection in the middle of an answer.
  readonly #cdn: Server;
  #release: (() => void)[] = [];

  private constructor(model: string, cdn: Server) {
    this.model = model;
    this.#cdn = cdn.on("request", (request, response) => this.#content(request, response));
    this.#hub = Bun.serve({ hostname: "127.0.0.1", port: 0, fetch: (request) => this.#answer(request) });
  }

  static async start(model: string): Promise<FakeHub> {
    const cdn = createServer();
    await new Promise<void>((resolve) => cdn.listen(0, "127.0.0.1", resolve));
    return new FakeHub(model, cdn);
  }

  get endpoint(): string {
    return `http://127.0.0.1:${this.#hub.port}`;
  }

  /** Answers to the next requests for a file. */
  fault(name: string, ...faults: Fault[]): void {
    this.#faults.set(name, [...(this.#faults.get(name) ?? []), ...faults]);
  }

  /** How often a file's content was asked for, redirects not counted. */
  served(name: string): SeenRequest[] {
    return this.requests.filter((r) => r.what === name && r.at === "cdn");
  }

  release(): void {
    for (const go of this.#release.splice(0)) go();
  }

  async stop(): Promise<void> {
    this.release();
    this.#cdn.closeAllConnections();
    await Promise.all([this.#hub.stop(true), new Promise((resolve) => this.#cdn.close(resolve))]);
  }

  #see(request: Request, what: string): void {
    const { pathname, search } = new URL(request.url);
    const header = (name: string) => request.headers.get(name);
    this.requests.push({
      what,
      path: pathname + search,
      range: header("range"),
      authorization: header("authorization"),
      cookie: header("cookie"),
      at: "hub",
    });
  }

  #answer(request: Request): Response {
    const path = decodeURIComponent(new URL(request.url).pathname);
    const allowed = this.token === undefined || request.headers.get("authorization") === `Bearer ${this.token}`;

    const api = path.match(/^\/api\/models\/([^/]+\/[^/]+)\/(revision|tree)\/(.+)$/);
    if (api) return this.#huggingFaceApi(request, api[1]!, api[2]!, api[3]!, allowed);
    if (path.startsWith("/api/v1/models/")) return this.#modelScopeApi(request, path, allowed);
    const file = path.match(/^\/([^/]+\/[^/]+)\/resolve\/([^/]+)\/(.+)$/);
    if (file && file[1] === this.model && file[2] === FakeHub.COMMIT && allowed) return this.#toCdn(request, file[3]!);
    return new Response("no", { status: 404 });
  }

  #huggingFaceApi(request: Request, model: string, what: string, revision: string, allowed: boolean): Response {
    this.#see(request, "list");
    const fault = this.listFaults.shift();
    if (typeof fault === "object") return status(fault);
    if (model !== this.model || !allowed) {
      return Response.json(
        { error: "Repository not found" },
        { status: 401, headers: { "x-error-code": "RepoNotFound" } },
      );
    }
    if (what === "revision") {
      if (!["main", "refs/pr/1", FakeHub.COMMIT].includes(revision)) {
        return Response.json({}, { status: 404, headers: { "x-error-code": "RevisionNotFound" } });
      }
      return Response.json({ id: model, sha: FakeHub.COMMIT });
    }
    const entries = [...this.files].map(([path, content]) => ({
      type: "file",
      path,
      size: content.length,
      oid: gitSha1(content),
      ...(path.endsWith(".safetensors")
        ? { lfs: { oid: sha256(content), size: content.length, pointerSize: 134 } }
        : {}),
    }));
    const list = this.editList([{ type: "directory", path: "onnx", size: 0, oid: "0" }, ...entries]);
    if (!Array.isArray(list)) return Response.json(list);
    const start = Number(new URL(request.url).searchParams.get("cursor") ?? 0);
    const end = start + this.pageSize;
    const next = this.nextPage ?? `${this.endpoint}/api/models/${model}/tree/${revision}?cursor=${end}`;
    const headers: Record<string, string> = end < list.length ? { link: `<${next}>; rel="next"` } : {};
    return Response.json(list.slice(start, end), { headers });
  }

  #modelScopeApi(request: Request, path: string, allowed: boolean): Response {
    const query = new URL(request.url).searchParams;
    const known = path.startsWith(`/api/v1/models/${this.model}/repo`) && query.get("Revision") === "master" && allowed;
    if (path.endsWith("/repo/files")) {
      this.#see(request, "list");
      const fault = this.listFaults.shift();
      if (typeof fault === "object") return status(fault);
      if (!known)
        return Response.json({ Code: 10010205001, Success: false, Message: "record not found" }, { status: 404 });
      const entries = [...this.files].map(([Path, content]) => ({
        Path,
        Name: Path,
        Type: "blob",
        Size: content.length,
        Sha256: sha256(content),
        Revision: FakeHub.COMMIT,
      }));
      const list = this.editList([{ Path: "onnx", Name: "onnx", Type: "tree", Size: 0, Sha256: "" }, ...entries]);
      return Response.json(Array.isArray(list) ? { Code: 200, Success: true, Data: { Files: list } } : list);
    }
    return known ? this.#toCdn(request, query.get("FilePath")!) : new Response("no", { status: 404 });
  }

  #toCdn(request: Request, name: string): Response {
    this.#see(request, name);
    const { port } = this.#cdn.address() as AddressInfo;
    const location = this.redirect ?? `http://127.0.0.1:${port}/${encodeURIComponent(name)}?signature=1`;
    const content = this.files.get(name) ?? new Uint8Array();
    // What Hugging Face's own client wants to see before it downloads.
    const etag = name.endsWith(".safetensors") ? sha256(content) : gitSha1(content);
    const headers = {
      "x-repo-commit": FakeHub.COMMIT,
      "x-linked-etag": `"${etag}"`,
      "x-linked-size": `${content.length}`,
    };
    return new Response(null, { status: 302, headers: { location, ...headers } });
  }

  #content(request: IncomingMessage, response: ServerResponse): void {
    const path = request.url ?? "";
    const name = decodeURIComponent(path.slice(1).replace(/\?.*/, ""));
    const { range = null, authorization = null, cookie = null } = request.headers;
    this.requests.push({ what: name, path, range, authorization, cookie, at: "cdn" });
    const content = this.files.get(name);
    const fault = this.#faults.get(name)?.shift();
    if (!content || fault === "no-range" || typeof fault === "object") {
      const { status = content ? 416 : 404, retryAfter } = typeof fault === "object" ? fault : {};
      response.writeHead(status, retryAfter === undefined ? {} : { "retry-after": retryAfter }).end();
      return;
    }

    const asked = fault === "ignore-range" ? undefined : range?.match(/^bytes=(\d+)-$/);
    let start = asked ? Number(asked[1]) : 0;
    if (start > 0 && fault === "wrong-range") start -= 1;
    let body = Buffer.from(content.slice(start));
    if (fault === "corrupt") body[body.length - 1]! ^= 0xff;
    if (fault === "longer") body = Buffer.concat([body, Buffer.from("more")]);
    const headers: Record<string, string | number> = asked
      ? { "content-range": `bytes ${start}-${content.length - 1}/${content.length}` }
      : {};
    if (fault !== "truncate") headers["content-length"] = body.length;
    response.writeHead(asked ? 206 : 200, headers);

    const half = body.subarray(0, Math.ceil(body.length / 2));
    if (fault === "truncate") response.end(half);
    else if (fault === "stall") response.write(half);
    else if (fault === "reset") response.write(half, () => setTimeout(() => response.destroy(), 20));
    else if (fault === "half-then-wait") {
      response.write(half);
      this.#release.push(() => response.end(body.subarray(half.length)));
    } else response.end(body);
  }
}

function status(fault: { status: number; retryAfter?: string; code?: string }): Response {
  const headers: Record<string, string> = {};
  if (fault.retryAfter !== undefined) headers["retry-after"] = fault.retryAfter;
  if (fault.code !== undefined) headers["x-error-code"] = fault.code;
  return new Response("no", { status: fault.status, headers });
}

/** A hub with a small model; its weights are of pseudo-random bytes. */
export async function fakeModelHub(model = "Qwen/Qwen2.5-0.5B-Instruct", weightBytes = 200_000): Promise<FakeHub> {
  const hub = await FakeHub.start(model);
  const text = (content: string) => new TextEncoder().encode(content);
  hub.files.set(".gitattributes", text("*.safetensors filter=lfs"));
  hub.files.set("README.md", text("# model"));
  hub.files.set("config.json", text('{"model_type": "qwen2"}'));
  hub.files.set("generation_config.json", text("{}"));
  hub.files.set("tokenizer.json", text('{"model": {"type": "BPE"}}'));
  hub.files.set("tokenizer_config.json", text('{"chat_template": "中文"}'));
  hub.files.set("model.safetensors", pseudoRandom(weightBytes));
  hub.files.set("pytorch_model.bin", pseudoRandom(1000));
  return hub;
}

export function pseudoRandom(bytes: number, seed = 1): Uint8Array {
  const out = new Uint8Array(bytes);
  let x = seed;
  for (let i = 0; i < bytes; i++) {
    x = (Math.imul(x, 1103515245) + 12345) >>> 0;
    out[i] = x >>> 16;
  }
  return out;
}

/** The folder inside `cache` where a source keeps a model. */
export function expectedDir(source: HubSource): string {
  return source === "huggingface"
    ? `models--Qwen--Qwen2.5-0.5B-Instruct/snapshots/${FakeHub.COMMIT}`
    : "models/Qwen/Qwen2___5-0___5B-Instruct";
}
