import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import type { RunEvent } from "../events.ts";
import source from "./page.html" with { type: "text" };

/** The page with the chart library in it; without data it asks the server that it came from. */
const page = once(() => withChartLibrary(source as unknown as string));

/** Puts uPlot into the places of a page that are named for its two files. */
function withChartLibrary(html: string): string {
  const library = (path: string): string =>
    readFileSync(fileURLToPath(import.meta.resolve(`uplot/dist/${path}`)), "utf8").trim();
  // Functions, because a text's `$&` would be replaced.
  return html
    .replace("/* uPlot.css */", () => library("uPlot.min.css"))
    .replace("/* uPlot.js */", () => library("uPlot.iife.min.js"));
}

/** The live page, and a policy that lets exactly its own styles and scripts run and talk to its own server. */
export const livePage = once((): { html: string; contentSecurityPolicy: string } => {
  const html = page();
  return { html, contentSecurityPolicy: policy(html, "'self'") };
});

/** The same page with a run's events in it, which needs no server and no network. */
export function pageWith(events: readonly RunEvent[]): string {
  return withData(page(), events);
}

/**
 * A page of its own with uPlot and data in it, which loads nothing and may load nothing.
 *
 * @param html has `/* uPlot.css *\/` in a style, `/* uPlot.js *\/` in a script, an empty script element of JSON with the id
 * `data`, and begins its head with `<meta charset="utf-8">`
 */
export function selfContainedPage(html: string, data: unknown): string {
  return withData(withChartLibrary(html), data);
}

function withData(page: string, data: unknown): string {
  // In a script element only `</script` and `<!--` would end the data.
  const json = JSON.stringify(data).replaceAll("<", "\\u003c");
  const html = page.replace(
    `<script type="application/json" id="data"></script>`,
    () => `<script type="application/json" id="data">${json}</script>`,
  );
  // The same policy holds where a file has no headers.
  const meta = `<meta http-equiv="Content-Security-Policy" content="${policy(html, "'none'")}">`;
  return html.replace(`<meta charset="utf-8">`, (charset) => `${charset}\n${meta}`);
}

function policy(html: string, connect: string): string {
  const hashes = (tag: string): string =>
    [...html.matchAll(new RegExp(`<${tag}>([\\s\\S]*?)</${tag}>`, "g"))]
      .map(([, inner]) => `'sha256-${createHash("sha256").update(inner).digest("base64")}'`)
      .join(" ");
  return [
    "default-src 'none'",
    `style-src ${hashes("style")}`,
    `script-src ${hashes("script")}`,
    `connect-src ${connect}`,
    "img-src data:",
    "base-uri 'none'",
    "form-action 'none'",
  ].join("; ");
}

function once<T>(make: () => T): () => T {
  let made: T | undefined;
  return () => (made ??= make());
}
