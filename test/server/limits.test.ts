import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { createApp, createLogger, DEFAULT_LIMITS } from "../../apps/server/src/index.ts";
import { EchoBackend } from "../../apps/server/src/testing.ts";
import { ROOT } from "../support/process.ts";

const page = (name: string): string => readFileSync(join(ROOT, "docs/serving", name), "utf8");

test("the published table of limits is the program's", () => {
  const rows = [...page("limits.md").matchAll(/^\| `([a-z-]+)` \| (\d+) \|/gm)];
  const camel = (name: string): string => name.replaceAll(/-([a-z])/g, (_, letter: string) => letter.toUpperCase());
  expect(Object.fromEntries(rows.map(([, name, value]) => [camel(name), Number(value)]))).toEqual({
    ...DEFAULT_LIMITS,
  });
});

test("every route of the document is in the published list", () => {
  const config = { conversations: ":memory:" };
  const { document } = createApp({ backend: new EchoBackend(), logger: createLogger("silent"), config });
  const { openapi, paths } = document as { openapi: string; paths: Record<string, unknown> };
  expect(openapi).toBe("3.1.0");
  const list = page("quick-start.md");
  const missing = Object.keys(paths).filter((path) => {
    const [, first, second = ""] = path.split("/");
    return !list.includes(`/${first}${second && !second.startsWith("{") && second !== "export" ? `/${second}` : ""}`);
  });
  expect(missing).toEqual([]);
  expect(Object.keys(paths).length).toBeGreaterThan(20);
});
