/** Serves dist/ with the headers by which a page may share memory with its workers: without them it computes on one thread. */
const server = Bun.serve({
  port: Number(process.env.PORT ?? 3000),
  async fetch({ url }) {
    const { pathname } = new URL(url);
    const file = Bun.file(`dist${pathname === "/" ? "/index.html" : pathname}`);
    if (!(await file.exists())) return new Response("not found", { status: 404 });
    const headers = { "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp" };
    return new Response(file, { headers });
  },
});
console.log(`${server.url}`);
