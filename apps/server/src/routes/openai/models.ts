import { z } from "@hono/zod-openapi";
import type { Context } from "../../env.ts";
import { type Router, route } from "../../http/route.ts";
import type { Service } from "../../service.ts";
import { unixSeconds } from "./ids.ts";
import { model as modelSchema, models as modelsSchema } from "./schemas.ts";

const started = unixSeconds();

/** `GET /v1/models` and one of them: the base model and each adapter. */
export function modelRoutes(app: Router, { backend, models }: Service): void {
  const describe = (id: string, adapter: string | null) => ({
    id,
    object: "model" as const,
    created: started,
    owned_by: "tslm",
    parent: adapter === null ? null : backend.model,
    max_model_len: backend.info.contextLength,
  });
  route(
    app,
    {
      method: "get",
      path: "/v1/models",
      tag: "OpenAI",
      summary: "The base model and the adapters",
      answers: { description: "They can be given as `model`", json: modelsSchema },
    },
    (c) => {
      const client = c.get("client");
      const data = models.names.flatMap((name) => {
        try {
          return [describe(name, models.ofModel(name, client))];
        } catch {
          // Another key's, or the other name of an adapter that is not loaded.
          return [];
        }
      });
      return c.json({ object: "list" as const, data });
    },
  );
  // Names of models hold slashes, so the rest of the path is the name.
  route(
    app,
    {
      method: "get",
      path: "/v1/models/{model}",
      tag: "OpenAI",
      summary: "One of them",
      answers: { description: "It can be given as `model`", json: modelSchema },
      errors: [404],
      params: z.object({ model: z.string().openapi({ param: { name: "model", in: "path" } }) }),
    },
    (c) => one(c),
  );
  app.get("/v1/models/*", (c) => one(c));

  function one(c: Context): Response {
    const name = decoded(c.req.path.slice("/v1/models/".length));
    return c.json(describe(name, models.ofModel(name, c.get("client"))));
  }
}

function decoded(path: string): string {
  try {
    return decodeURIComponent(path);
  } catch {
    return path;
  }
}
