import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { once } from "node:events";
import { cp, mkdir, readdir, writeFile } from "node:fs/promises";
import { type AddressInfo, createServer } from "node:net";
import { join } from "node:path";
import { command, OFFLINE, ROOT, start, temporaryFolder } from "../support/process.ts";
import { writeTinyModel } from "../support/tiny-model.ts";

// Each test starts processes, on machines that may be slow and busy.
setDefaultTimeout(120_000);

describe("download", () => {
  test("no network: says what cannot be reached and what to do, leaves nothing", async () => {
    await using folder = await temporaryFolder();
    const { status, stdout, stderr } = await command("download", ["Some/Model", "--cache", folder.path], {
      env: OFFLINE,
    });
    expect(stderr).toContain("127.0.0.1:9 cannot be reached");
    expect(stderr).toContain("check the network");
    expect(status).toBe(1);
    expect(stdout).toBe("");
    expect(await readdir(folder.path)).toEqual([]);
  });

  test("what is in the cache needs no network; the folder comes last, alone on stdout", async () => {
    await using folder = await temporaryFolder();
    const dir = join(folder.path, "models/Some/Model");
    await mkdir(dir, { recursive: true });
    await writeTinyModel(dir);
    const env = { ...OFFLINE, MODELSCOPE_CACHE: folder.path };
    const plain = await command("download", ["Some/Model"], { env });
    expect(plain.stdout).toBe(`${dir}\n`);
    expect(plain.status).toBe(0);
    const { stdout } = await command("download", ["Some/Model", "--json"], { env });
    expect(JSON.parse(stdout)).toEqual({ model: "Some/Model", dir, source: "modelscope", downloaded: false });
    const asked = await command("ask", ["x", "--model", "Some/Model", "--max-new-tokens", "2", "--json"], { env });
    expect(asked.status).toBe(0);
  });

  test.each(["../x", "a/b/c", "Some/Mo del"])("%p is no model's name", async (name) => {
    const { status, stderr } = await command("download", [name], { env: OFFLINE });
    expect(stderr).toStartWith("error: ");
    expect(stderr.trim().split("\n")).toHaveLength(1);
    expect(status).toBe(1);
  });

  test("an endpoint that is none", async () => {
    const { status, stderr } = await command("download", ["--endpoint", "nowhere"], { env: OFFLINE });
    expect(stderr).toContain('the endpoint "nowhere" is not an address');
    expect(status).toBe(1);
  });
});

describe("no model was named, and there is no network", () => {
  test("another model is never taken in the place of one that was named", async () => {
    const args = ["x", "--model", "Qwen/Qwen2.5-0.5B-Instruct", "--json"];
    const { status, stdout, stderr } = await command("ask", args, { env: OFFLINE });
    expect(stderr).toContain("cannot be reached");
    expect(stderr).not.toContain("demo");
    expect(stdout).toBe("");
    expect(status).toBe(1);
  });

  test("an adapter whose model cannot be had names it and what to do", async () => {
    await using folder = await temporaryFolder();
    const config = { peft_type: "LORA", target_modules: ["q_proj"], base_model_name_or_path: "Some/Model" };
    await writeFile(join(folder.path, "adapter_config.json"), JSON.stringify(config));
    const { status, stderr } = await command("ask", ["x", "--adapter", folder.path], { env: OFFLINE });
    expect(stderr).toContain(`\nerror: the adapter in ${folder.path} was made for the model Some/Model: `);
    expect(stderr).toEndWith("; or give that model's folder with --model DIR\n");
    expect(status).toBe(1);
  });

  test("train takes the demo, says so loudly and how to get the real one; then ask finds it", async () => {
    await using folder = await temporaryFolder();
    await mkdir(join(folder.path, "data"));
    await cp(join(ROOT, "data/input"), join(folder.path, "data/input"), { recursive: true });
    const options = { cwd: folder.path, env: OFFLINE };
    const { status, stdout, stderr } = await command("train", ["--json"], options);
    expect(stderr).toContain("warning: the default model is not on this computer, and Qwen/Qwen2.5-0.5B-Instruct can");
    expect(stderr).toContain("using the small bundled demo model instead");
    expect(stderr).toContain("bun run download");
    expect(status).toBe(0);
    const result = JSON.parse(stdout);
    expect(result.model).toMatchObject({ name: "demo", source: "demo" });
    const [{ before, after }] = result.samples;
    expect(before).toContain("100GB");
    expect(after).toContain("15GB");
    expect(result.diagnosis.verdict).toBe("learned");
    expect(await readdir(join(folder.path, "model/lora_adapter"))).toContain("adapter_model.safetensors");
    const adapter = ["--adapter", "model/lora_adapter"];
    const asked = await command("ask", ["免费空间有多大?", ...adapter], options);
    expect(asked.stdout).toBe(`${after}\n`);
    expect(asked.stderr).not.toContain("warning");

    const serving = start("serve", [...adapter, "--port", "0", "--json"], options);
    const { url } = JSON.parse(await serving.printed("\n", "stdout"));
    const chat = async (body: object) => {
      const response = await fetch(`${url}/chat`, { method: "POST", body: JSON.stringify(body) });
      return ((await response.json()) as { reply: string }).reply;
    };
    expect(await chat({ message: "免费空间有多大?", temperature: 0 })).toBe(after);
    expect(await chat({ message: "免费空间有多大?", temperature: 0, adapter: null })).not.toBe(after);
    serving.process.kill("SIGTERM");
    expect((await serving.ended()).status).toBe(0);
  });

  test("a network that swallows everything is not waited for long", async () => {
    await using folder = await temporaryFolder();
    const silent = createServer(() => {}).listen(0, "127.0.0.1");
    await once(silent, "listening");
    const endpoint = `http://127.0.0.1:${(silent.address() as AddressInfo).port}`;
    const env = { ...OFFLINE, MODELSCOPE_ENDPOINT: endpoint, HF_ENDPOINT: endpoint };
    const started = performance.now();
    const { status, stderr } = await command("ask", ["x", "--max-new-tokens", "1"], { cwd: folder.path, env });
    // All attempts of the patient kind take minutes.
    expect(performance.now() - started).toBeLessThan(60_000);
    expect(stderr).toContain("Looking for Qwen/Qwen2.5-0.5B-Instruct at modelscope.");
    expect(stderr).toContain("cannot be reached: no answer for 4 s; check the network");
    expect(stderr).toContain("using the small bundled demo model instead");
    expect(status).toBe(0);
    silent.close();
  });
});
