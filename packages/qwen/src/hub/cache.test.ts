import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { mkdir, mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { homedir, tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { cacheRoot, findCached, isCompleteModel } from "./cache.ts";
import { HubError } from "./errors.ts";
import { resolveModel } from "./resolve.ts";

const MODEL = "Qwen/Qwen2.5-0.5B-Instruct";
const COMMIT = "0123456789abcdef0123456789abcdef01234567";
const OTHER = "89abcdef0123456789abcdef0123456789abcdef";

let root: string;
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), "tslm-cache-"));
});
afterEach(() => rm(root, { recursive: true, force: true }));

async function put(path: string, content = "x"): Promise<void> {
  await mkdir(dirname(join(root, path)), { recursive: true });
  await writeFile(join(root, path), content);
}
async function putModel(dir: string): Promise<string> {
  for (const name of ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"])
    await put(join(dir, name), "{}");
  return join(root, dir);
}

describe("where the hubs' tools keep models", () => {
  const home = homedir();
  test.each<["modelscope" | "huggingface", Record<string, string>, string]>([
    ["modelscope", {}, `${home}/.cache/modelscope/hub`],
    ["modelscope", { MODELSCOPE_CACHE: "/ms" }, "/ms"],
    ["huggingface", {}, `${home}/.cache/huggingface/hub`],
    ["huggingface", { XDG_CACHE_HOME: "/xdg" }, "/xdg/huggingface/hub"],
    ["huggingface", { HF_HOME: "~/hf", XDG_CACHE_HOME: "/xdg" }, `${home}/hf/hub`],
    ["huggingface", { HF_HUB_CACHE: "/hub", HF_HOME: "/hf" }, "/hub"],
    ["huggingface", { HUGGINGFACE_HUB_CACHE: "/old" }, "/old"],
  ])("%s with %p", (source, env, dir) => {
    expect(cacheRoot(source, undefined, env)).toBe(dir);
    expect(cacheRoot(source, "/mine", env)).toBe("/mine");
  });
});

describe("a complete model", () => {
  test("config, tokenizer, and every part of the weights", async () => {
    const dir = await putModel("m");
    expect(await isCompleteModel(dir)).toBe(true);
    await put("m/model.safetensors", "");
    expect(await isCompleteModel(dir)).toBe(false);
    await put(
      "m/model.safetensors.index.json",
      JSON.stringify({ weight_map: { a: "model-1.safetensors", b: "model-2.safetensors" } }),
    );
    await put("m/model-1.safetensors");
    expect(await isCompleteModel(dir)).toBe(false);
    await put("m/model-2.safetensors");
    expect(await isCompleteModel(dir)).toBe(true);
    await rm(join(dir, "tokenizer.json"));
    expect(await isCompleteModel(dir)).toBe(false);
  });

  test("an index that is broken or leads outside is none", async () => {
    const dir = await putModel("m");
    await put("evil.safetensors");
    for (const index of [
      "{",
      "[]",
      '{"weight_map":{"a":"../evil.safetensors"}}',
      '{"weight_map":{"a":"/etc/passwd"}}',
    ]) {
      await put("m/model.safetensors.index.json", index);
      expect(await isCompleteModel(dir)).toBe(false);
    }
  });

  test("a link to a blob that is gone is not there", async () => {
    const dir = await putModel("m");
    await rm(join(dir, "model.safetensors"));
    await symlink("../blobs/gone", join(dir, "model.safetensors"));
    expect(await isCompleteModel(dir)).toBe(false);
  });
});

describe("models that the hubs' own tools have fetched are found", () => {
  test.each([
    "models/Qwen/Qwen2___5-0___5B-Instruct",
    "models/Qwen/Qwen2.5-0.5B-Instruct",
    "models/Qwen--Qwen2.5-0.5B-Instruct/snapshots/master",
    "models/Qwen--Qwen2.5-0.5B-Instruct/snapshots/v1.0",
    "Qwen/Qwen2___5-0___5B-Instruct",
    "Qwen/Qwen2.5-0.5B-Instruct",
    "hub/models/Qwen/Qwen2___5-0___5B-Instruct",
  ])("ModelScope: %s", async (dir) => {
    const path = await putModel(dir);
    const env = { MODELSCOPE_CACHE: root, HF_HUB_CACHE: join(root, "none") };
    expect(await findCached(MODEL, { env })).toEqual({ dir: path, source: "modelscope" });
    expect(await findCached(MODEL, { env, source: "huggingface" })).toBeUndefined();
    expect(await findCached("Qwen/Qwen2.5-1.5B", { env })).toBeUndefined();
  });

  test("Hugging Face: by branch, by commit, or the only snapshot there is", async () => {
    const env = { HF_HOME: root, MODELSCOPE_CACHE: join(root, "none") };
    const repo = "hub/models--Qwen--Qwen2.5-0.5B-Instruct";
    const dir = await putModel(`${repo}/snapshots/${COMMIT}`);
    expect(await findCached(MODEL, { env })).toEqual({ dir, source: "huggingface" });
    expect(await findCached(MODEL, { env, revision: "main" })).toBeUndefined();
    await put(`${repo}/refs/main`, COMMIT);
    expect(await findCached(MODEL, { env, revision: "main" })).toEqual({ dir, source: "huggingface" });
    expect(await findCached(MODEL, { env, revision: COMMIT })).toEqual({ dir, source: "huggingface" });
    expect(await findCached(MODEL, { env, revision: OTHER })).toBeUndefined();
    await put(`${repo}/refs/main`, OTHER); // a newer commit, not whole
    expect(await findCached(MODEL, { env })).toBeUndefined();
    await put(`${repo}/refs/main`, "../../../../etc");
    expect(await findCached(MODEL, { env, revision: "main" })).toBeUndefined();
  });

  test("a revision is matched against what ModelScope's tools noted", async () => {
    const dir = "models/Qwen/Qwen2___5-0___5B-Instruct";
    const path = await putModel(dir);
    const find = (revision: string) => findCached(MODEL, { cache: root, revision });
    expect(await find("v1")).toBeUndefined();
    expect((await find("master"))?.dir).toBe(path);
    await put(`${dir}/.mv`, "Revision:v1,CreatedAt:1726000000");
    expect((await find("v1"))?.dir).toBe(path);
    expect(await find("master")).toBeUndefined();
  });

  test("a name or revision that climbs is refused", async () => {
    for (const name of ["../../etc", "Qwen", "", "a/b/c", "Qwen/..", "-a/b"]) {
      await expect(findCached(name, { cache: root })).rejects.toBeInstanceOf(HubError);
    }
    for (const revision of ["..", "a/../b", "/a", ""]) {
      await expect(findCached(MODEL, { cache: root, revision })).rejects.toBeInstanceOf(HubError);
    }
  });
});

describe("resolveModel", () => {
  test("a folder is itself", async () => {
    const dir = await putModel("mine");
    expect(await resolveModel(dir, { download: false })).toEqual({ dir, source: "folder", downloaded: false });
  });

  test("a name in the cache", async () => {
    const dir = await putModel("models/Qwen/Qwen2___5-0___5B-Instruct");
    expect(await resolveModel(MODEL, { cache: root })).toEqual({ dir, source: "modelscope", downloaded: false });
    expect(await resolveModel(MODEL, { cache: root, download: false })).toMatchObject({ dir });
  });

  test("what is neither says so", async () => {
    await expect(resolveModel(root, {})).rejects.toThrow("is a folder without config.json");
    await expect(resolveModel(join(root, "nothing"), {})).rejects.toThrow("there is no folder");
    await expect(resolveModel("", {})).rejects.toThrow("there is no folder");
    await expect(resolveModel(MODEL, { cache: root, download: false })).rejects.toThrow("is not on this computer");
  });
});
