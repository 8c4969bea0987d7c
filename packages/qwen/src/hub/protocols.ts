import { z } from "zod";
import { HubError } from "./errors.ts";
import type { Credentials, HttpClient } from "./http.ts";
import { hostOf } from "./http.ts";
import { checkFileName, isNeededFile } from "./names.ts";

/** The two hubs that models come from; they name the same models alike. */
export type HubSource = "modelscope" | "huggingface";

export const HUB_SOURCES: readonly HubSource[] = ["modelscope", "huggingface"];
export const DEFAULT_ENDPOINTS: Readonly<Record<HubSource, string>> = {
  modelscope: "https://modelscope.cn",
  huggingface: "https://huggingface.co",
};
export const DEFAULT_REVISIONS: Readonly<Record<HubSource, string>> = { modelscope: "master", huggingface: "main" };

/** A checksum that the hub gives for a file. `git-sha1` is Git's name of the content: SHA-1 over `blob SIZE\0CONTENT`. */
export interface Digest {
  readonly algorithm: "sha256" | "git-sha1";
  /** Lower-case hexadecimal. */
  readonly hex: string;
}

/** A file of a model as the hub lists it; the name has been checked and is one path component. */
export interface RemoteFile {
  readonly name: string;
  readonly size: number;
  readonly digest: Digest | undefined;
  /** Commit that last changed the file, where the hub says so. */
  readonly commit: string | undefined;
  readonly url: string;
}

/** What a hub has of a model at a revision: the files this package needs. */
export interface Listing {
  /** Full commit id of the revision, where the hub says so. */
  readonly commit: string | undefined;
  readonly files: readonly RemoteFile[];
}

/** A model at a hub. */
export interface Remote {
  readonly source: HubSource;
  /** Without a slash at the end. */
  readonly endpoint: string;
  readonly model: string;
  readonly revision: string;
}

const MAX_LIST_BYTES = 16 << 20;
const MAX_PAGES = 50;
const SHA256 = /^[0-9a-f]{64}$/;
const SHA1 = /^[0-9a-f]{40}$/;

const size = z.number().int().min(0).max(Number.MAX_SAFE_INTEGER);
const name = z.string().min(1);

// https://huggingface.co/docs/hub/api: GET /api/models/{id}/revision/{rev} and /tree/{rev}
const huggingFaceInfo = z.looseObject({ sha: z.string().regex(SHA1) });
const huggingFaceTree = z.array(
  z.looseObject({
    type: z.string(),
    path: name,
    size: size.optional(),
    oid: z.string().optional(),
    lfs: z.looseObject({ oid: z.string().regex(SHA256), size }).nullish(),
  }),
);

// ModelScope's SDK (HubApi.get_model_files): GET /api/v1/models/{id}/repo/files
const modelScopeFiles = z.looseObject({
  Success: z.boolean().optional(),
  Message: z.string().optional(),
  Data: z
    .looseObject({
      Files: z
        .array(
          z.looseObject({
            Path: name,
            Type: z.string(),
            Size: size.nullish(),
            Sha256: z.string().nullish(),
            Revision: z.string().nullish(),
          }),
        )
        .nullish(),
    })
    .nullish(),
});

/** Lists the files of a model that this package needs. */
export function listFiles(http: HttpClient, remote: Remote): Promise<Listing> {
  return remote.source === "huggingface" ? listHuggingFace(http, remote) : listModelScope(http, remote);
}

async function listHuggingFace(http: HttpClient, remote: Remote): Promise<Listing> {
  const { endpoint, model, revision } = remote;
  const describe = (status: number, headers: Headers) => statusError(remote, status, headers);
  const infoUrl = `${endpoint}/api/models/${model}/revision/${encodeURIComponent(revision)}`;
  const info = await http.getJson(infoUrl, MAX_LIST_BYTES, describe);
  const commit = parse(huggingFaceInfo, info.value, infoUrl).sha;

  const files: RemoteFile[] = [];
  let url: string | undefined = `${endpoint}/api/models/${model}/tree/${commit}?recursive=false`;
  for (let page = 0; url !== undefined; page++) {
    if (page === MAX_PAGES) throw new HubError("too-large", `${hostOf(endpoint)} lists more files than a model has`);
    const answer: { value: unknown; headers: Headers } = await http.getJson(url, MAX_LIST_BYTES, describe);
    for (const entry of parse(huggingFaceTree, answer.value, url)) {
      checkFileName(entry.path, hostOf(endpoint));
      if (entry.type !== "file" || !isNeededFile(entry.path)) continue;
      const { lfs, oid } = entry;
      const bytes = lfs?.size ?? entry.size;
      if (bytes === undefined || (!lfs && !SHA1.test(oid ?? ""))) {
        throw new HubError("protocol", `${url} lists ${entry.path} without its size and checksum`);
      }
      files.push({
        name: entry.path,
        size: bytes,
        digest: lfs ? { algorithm: "sha256", hex: lfs.oid } : { algorithm: "git-sha1", hex: oid! },
        commit,
        url: `${endpoint}/${model}/resolve/${commit}/${encodeURIComponent(entry.path)}`,
      });
    }
    url = nextPage(answer.headers.get("link"), url, endpoint);
  }
  return { commit, files: unique(files, hostOf(endpoint)) };
}

/** The page that a Link header calls next; it must stay at the hub. */
function nextPage(link: string | null, url: string, endpoint: string): string | undefined {
  const match = link?.match(/<([^<>]{1,2000})>\s*;\s*rel="?next"?/);
  if (!match) return undefined;
  const next = URL.canParse(match[1]!, url) ? new URL(match[1]!, url) : undefined;
  if (next?.origin === new URL(endpoint).origin) return next.href;
  throw new HubError("protocol", `${hostOf(endpoint)} continues its file list elsewhere, which is not followed`);
}

async function listModelScope(http: HttpClient, remote: Remote): Promise<Listing> {
  const { endpoint, model, revision } = remote;
  const base = `${endpoint}/api/v1/models/${model}/repo`;
  const url = `${base}/files?${new URLSearchParams({ Revision: revision, Recursive: "False" })}`;
  const { value } = await http.getJson(url, MAX_LIST_BYTES, (status, headers) => statusError(remote, status, headers));
  const { Success, Message, Data } = parse(modelScopeFiles, value, url);
  if (Success === false) {
    throw new HubError(
      "not-found",
      `${hostOf(endpoint)} refuses ${model}: ${(Message ?? "no reason given").slice(0, 300)}`,
    );
  }
  if (!Data) throw new HubError("protocol", `${url} answers something that is no file list`);
  const files: RemoteFile[] = [];
  for (const entry of Data.Files ?? []) {
    checkFileName(entry.Path, hostOf(endpoint));
    if (entry.Type === "tree" || !isNeededFile(entry.Path)) continue;
    const sha256 = entry.Sha256?.toLowerCase() ?? "";
    if (entry.Size == null || (sha256 !== "" && !SHA256.test(sha256))) {
      throw new HubError("protocol", `${url} lists ${entry.Path} without its size, or with a checksum that is none`);
    }
    files.push({
      name: entry.Path,
      size: entry.Size,
      digest: sha256 === "" ? undefined : { algorithm: "sha256", hex: sha256 },
      commit: /^[0-9a-f]{1,64}$/.test(entry.Revision ?? "") ? entry.Revision! : undefined,
      url: `${base}?${new URLSearchParams({ Revision: revision, FilePath: entry.Path })}`,
    });
  }
  return { commit: undefined, files: unique(files, hostOf(endpoint)) };
}

/** Two names that differ in case are one file on many disks. */
function unique(files: RemoteFile[], hub: string): RemoteFile[] {
  const names = new Set(files.map((file) => file.name.toLowerCase()));
  if (names.size === files.length) return files;
  throw new HubError("protocol", `${hub} lists a file twice; nothing was downloaded`);
}

function parse<T extends z.ZodType>(schema: T, value: unknown, url: string): z.output<T> {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const { path, message } = result.error.issues[0]!;
  const where = path.length > 0 ? ` at ${path.map(String).join(".")}` : "";
  throw new HubError("protocol", `${url} answers something that is no file list${where}: ${message}`);
}

/** What a status that is no success means, and what to do about it. */
export function statusError(remote: Remote, status: number, headers: Headers, file?: string): HubError {
  const { source, endpoint, model, revision } = remote;
  const host = hostOf(endpoint);
  const code = headers.get("x-error-code") ?? "";
  const variable = source === "huggingface" ? "HF_TOKEN" : "MODELSCOPE_API_TOKEN";
  if (code === "RevisionNotFound") {
    return new HubError(
      "not-found",
      `${host} has no revision ${revision} of ${model}; leave the revision out for the newest`,
    );
  }
  if (code === "GatedRepo") {
    return new HubError(
      "unauthorized",
      `${model} asks for an agreement first: accept it at ${endpoint}/${model} and give your token (${variable})`,
    );
  }
  // Hugging Face answers 401 for models that do not exist, so that private ones cannot be told apart from them.
  if (status === 401 || status === 403) {
    return new HubError(
      "unauthorized",
      `${host} does not give out ${model} (${status}): check the name; if it is private, give a token that may read it (${variable})`,
    );
  }
  if (status === 404 || status === 410) {
    const what =
      file === undefined ? `${model} at revision ${revision}` : `${file} of ${model} at revision ${revision}`;
    return new HubError(
      "not-found",
      `${host} has no ${what} (${status}); check the name and the revision at ${endpoint}, or use the other source`,
    );
  }
  return new HubError("protocol", `${host} answers ${status} when asked for ${file ?? model}`);
}

/** How each hub takes a token. */
export function credentials(source: HubSource, endpoint: string, token: string): Credentials {
  const headers: Record<string, string> = { authorization: `Bearer ${token}` };
  if (source === "modelscope") headers.cookie = `m_session_id=${token}`; // older endpoints read only the cookie
  return { origin: new URL(endpoint).origin, headers };
}
