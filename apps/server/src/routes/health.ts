import { z } from "@hono/zod-openapi";
import { type Router, route } from "../http/route.ts";
import type { Service } from "../service.ts";

const healthSchema = z
  .object({
    status: z.enum(["ok", "loading", "restarting", "stalled", "failed", "draining"]),
    model: z.string(),
    adapters: z.array(z.string()),
    device: z.object({ name: z.string(), isa: z.string(), threads: z.int() }).nullable(),
    queue: z.object({ running: z.int(), waiting: z.int(), limit: z.int() }),
    uptime_s: z.int(),
  })
  .openapi("Health");
const readySchema = z.object({ ready: z.boolean() });

/** `GET /health`, `GET /ready`, `GET /metrics`. */
export function healthRoutes(app: Router, service: Service, admitted: () => number): void {
  const { backend, answers, config, limits, metrics } = service;
  const started = performance.now();

  const statusNow = (): z.output<typeof healthSchema>["status"] => {
    if (answers.isDraining) return "draining";
    if (backend.state !== "ready") return backend.state === "ended" ? "failed" : backend.state;
    return backend.stats.stalledMs > config.stallSeconds * 1000 ? "stalled" : "ok";
  };

  route(
    app,
    {
      method: "get",
      path: "/health",
      tag: "Operation",
      summary: "Does it answer? The status is 503 where not",
      isOpen: true,
      answers: { description: "It answers", json: healthSchema, unavailable: healthSchema },
    },
    (c) => {
      const status = statusNow();
      const waiting = Math.min(backend.stats.waiting, admitted());
      return c.json(
        {
          status,
          model: backend.model,
          adapters: backend.adapters.map(({ name }) => name),
          device: backend.state === "ready" ? backend.info.device : null,
          queue: { running: admitted() - waiting, waiting, limit: limits.queue },
          uptime_s: Math.round((performance.now() - started) / 1000),
        },
        status === "ok" ? 200 : 503,
      );
    },
  );

  route(
    app,
    {
      method: "get",
      path: "/ready",
      tag: "Operation",
      summary: "May requests be sent here? For load balancers",
      isOpen: true,
      answers: { description: "Yes", json: readySchema, unavailable: readySchema },
    },
    (c) => {
      const ready = statusNow() === "ok";
      return c.json({ ready }, ready ? 200 : 503);
    },
  );

  route(
    app,
    {
      method: "get",
      path: "/metrics",
      tag: "Operation",
      summary: "Numbers for Prometheus",
      answers: { description: "Prometheus' text format", others: { "text/plain": z.string() } },
    },
    async (c) => c.body(await metrics.registry.metrics(), 200, { "Content-Type": metrics.registry.contentType }),
  );
}
