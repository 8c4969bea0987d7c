import { createHash } from "node:crypto";
import { join } from "node:path";
import css from "./page.css" with { type: "text" };
import source from "./page.html" with { type: "text" };

/** A page, and the policy that it is served with. */
export interface ChatPage {
  readonly html: string;
  readonly contentSecurityPolicy: string;
}

let made: Promise<ChatPage> | undefined;

/**
 * The page to chat in: one file, which loads nothing from anywhere; its script is bundled at the first call. The policy lets
 * exactly its own style and script run, and no text become markup.
 */
export function chatPage(): Promise<ChatPage> {
  made ??= makePage();
  return made;
}

async function makePage(): Promise<ChatPage> {
  const built = await Bun.build({
    entrypoints: [join(import.meta.dir, "client/main.ts")],
    target: "browser",
    format: "esm",
    minify: true,
  });
  // Within a script, only this ends it.
  const script = (await built.outputs[0].text()).replaceAll("</script", "<\\/script");
  const html = (source as unknown as string)
    .replace("<style></style>", () => `<style>${css}</style>`)
    .replace("<script></script>", () => `<script type="module">${script}</script>`);
  const hash = (text: string): string => `'sha256-${createHash("sha256").update(text).digest("base64")}'`;
  return {
    html,
    contentSecurityPolicy: [
      "default-src 'none'",
      `style-src ${hash(css)}`,
      `script-src ${hash(script)}`,
      "connect-src 'self'",
      "img-src data:",
      "base-uri 'none'",
      "form-action 'none'",
      "frame-ancestors 'none'",
      "require-trusted-types-for 'script'",
      "trusted-types 'none'",
    ].join("; "),
  };
}
