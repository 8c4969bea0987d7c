import { describe, expect, test } from "bun:test";
import { hashOfKey } from "../http/auth.ts";
import { loadConfig, VARIABLES } from "./load.ts";

const file = (text: string) => ({ path: "serve.yaml", text });

describe("settings", () => {
  test("have defaults", () => {
    expect(loadConfig({})).toMatchObject({ host: "127.0.0.1", port: 8000, maxTokens: 512, limits: { queue: 16 } });
  });

  test("a flag wins over the environment, that over the file, that over the default", () => {
    const text = "port: 1\nmax-tokens: 1\nseed: 1\nlimits:\n  queue: 1\n  body-bytes: 2048\n";
    const env = { TSLM_PORT: "2", TSLM_MAX_TOKENS: "2", TSLM_LIMITS_QUEUE: "2" };
    const config = loadConfig({ flags: { port: 3, limits: { choices: 3, queue: undefined } }, env, file: file(text) });
    expect(config).toMatchObject({ port: 3, maxTokens: 2, seed: 1 });
    expect(config.limits).toMatchObject({ queue: 2, bodyBytes: 2048, choices: 3, nesting: 32 });
  });

  test("lists and truths in the environment", () => {
    const env = { TSLM_CORS_ORIGINS: "https://a.example, https://b.example", TSLM_TRUST_PROXY: "true" };
    expect(loadConfig({ env })).toMatchObject({
      corsOrigins: ["https://a.example", "https://b.example"],
      trustProxy: true,
    });
    expect(loadConfig({ env: { TSLM_ALIASES: '{"gpt-4o": "mine"}' } }).aliases).toEqual({ "gpt-4o": "mine" });
  });

  test("keys are kept as hashes, those of all places together", () => {
    const text = `api-keys:\n  - name: team\n    sha256: ${hashOfKey("k")}\n    requests-per-minute: 5\n`;
    const { apiKeys } = loadConfig({ env: { TSLM_API_KEY: "s3cret" }, file: file(text) });
    expect(apiKeys).toMatchObject([
      { name: "team", sha256: hashOfKey("k"), requestsPerMinute: 5, admin: false },
      { name: "default", sha256: hashOfKey("s3cret"), admin: true },
    ]);
  });

  test("names that somebody chose stay as they are", () => {
    expect(loadConfig({ file: file("aliases:\n  my-model: lora-adapter\n") }).aliases).toEqual({
      "my-model": "lora-adapter",
    });
  });

  test.each([
    [{ env: { TSLM_PORT: "x" } }, "TSLM_PORT must be a whole number from 0 to 65535, but is NaN"],
    [{ env: { TSLM_TRUST_PROXY: "maybe" } }, "TSLM_TRUST_PROXY must be true or false, but is a text"],
    [{ file: file("prot: 1") }, 'serve.yaml: prot has a field that is not known: "prot"'],
    [{ file: file("limits: {queue: -1}") }, "serve.yaml: limits.queue must be a whole number from 0 to 10000"],
    [{ file: file("api-keys: [{name: x, sha256: secret}]") }, "64 small letters and digits"],
    [{ file: file("a: [") }, "serve.yaml: "],
    [{ flags: { contextPolicy: "drop" } }, 'the command line: context-policy must be "error", "trim-oldest"'],
  ])("%j is told: %s", (sources, message) => {
    expect(() => loadConfig(sources)).toThrow(message);
  });

  test("each setting has a variable of its own", () => {
    const names = VARIABLES.map(({ name }) => name);
    expect(new Set(names).size).toBe(names.length);
    expect(names).toContain("TSLM_LIMITS_BODY_BYTES");
    expect(names).toContain("TSLM_MODEL");
  });
});
