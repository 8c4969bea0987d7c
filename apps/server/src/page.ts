import { createHash } from "node:crypto";
import source from "./page.html" with { type: "text" };

const html = source as unknown as string;

let made: { html: string; contentSecurityPolicy: string } | undefined;

/**
 * The page to chat in: one file, which loads nothing from anywhere. The policy lets exactly its own style and script run.
 */
export function chatPage(): { html: string; contentSecurityPolicy: string } {
  const hash = (tag: string): string => {
    const inner = new RegExp(`<${tag}>([\\s\\S]*?)</${tag}>`).exec(html)?.[1] ?? "";
    return `'sha256-${createHash("sha256").update(inner).digest("base64")}'`;
  };
  made ??= {
    html,
    contentSecurityPolicy: [
      "default-src 'none'",
      `style-src ${hash("style")}`,
      `script-src ${hash("script")}`,
      "connect-src 'self'",
      "img-src data:",
      "base-uri 'none'",
      "form-action 'none'",
      "frame-ancestors 'none'",
    ].join("; "),
  };
  return made;
}
