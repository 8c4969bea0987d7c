import { realpath } from "node:fs/promises";
import { basename, join, sep } from "node:path";
import { z } from "@hono/zod-openapi";
import type { Context } from "../env.ts";
import { ApiError } from "../errors.ts";
import { between, notEmptyText, strict } from "../http/checks.ts";
import { jsonRoute, type Router, route } from "../http/route.ts";
import type { Service } from "../service.ts";

const adapterSchema = z
  .object({
    name: z.string(),
    version: z.int().openapi({ description: "Rises each time the adapter's files are read again" }),
    scale: z.number(),
    rank: z.int(),
    running: z.int().openapi({ description: "Answers that it is giving now, with older versions too" }),
  })
  .openapi("Adapter");

/** Names that can stand in a path and in a log. */
const NAME = /^[\p{L}\p{N}_.-]{1,100}$/u;

/** `GET`, `POST` and `DELETE /adapters`. */
export function adapterRoutes(app: Router, service: Service): void {
  const { backend, config, limits, models } = service;

  route(
    app,
    {
      method: "get",
      path: "/adapters",
      tag: "Adapters",
      summary: "The loaded adapters, the default one first",
      answers: { description: "They can be given as `adapter` or `model`", json: z.array(adapterSchema) },
    },
    (c) => c.json(backend.adapters.filter(({ name }) => models.isAllowed(name, c.get("client")))),
  );

  jsonRoute(
    app,
    {
      method: "post",
      path: "/adapters",
      tag: "Adapters",
      summary: "Loads an adapter from below the allowed folder, or loads one again, or with another scale",
      limits,
      body: strict(
        { path: notEmptyText(1000), name: notEmptyText(100).optional(), scale: between(-10, 10).optional() },
        "a JSON object with path",
      ).openapi("LoadAdapterRequest"),
      answers: { description: "What was loaded", json: adapterSchema },
      errors: [404, 422],
    },
    async (c, { path, name = basename(path).replace(/\.gguf$/i, ""), scale }) => {
      checkAdmin(c);
      if (!NAME.test(name) || name === backend.model) {
        throw new ApiError("invalid_request", "name must be 1 to 100 letters, digits, _, . or -, and not the model's", {
          param: "name",
        });
      }
      const dir = await allowedPath(config.adapterRoot, path);
      const info = await backend.loadAdapter(name, dir, { scale });
      c.get("outcome").adapter = name;
      return c.json(info);
    },
  );

  route(
    app,
    {
      method: "delete",
      path: "/adapters/{name}",
      tag: "Adapters",
      summary: "Unloads an adapter; answers that it is giving end with it",
      answers: { description: "It is gone", status: 204 },
      errors: [404],
      params: z.object({ name: z.string().openapi({ param: { name: "name", in: "path" } }) }),
    },
    async (c) => {
      checkAdmin(c);
      const name = c.req.param("name") ?? "";
      await backend.unloadAdapter(name);
      c.get("outcome").adapter = name;
      return c.body(null, 204);
    },
  );

  function checkAdmin(c: Context): void {
    if (config.adapterRoot === undefined) {
      throw new ApiError("forbidden", "adapters cannot be changed here: the server was started without adapter-root");
    }
    const { key, name } = c.get("client");
    if (key && !key.admin) throw new ApiError("forbidden", `the key ${name} may not change adapters`);
  }
}

/** A path below the allowed folder, links resolved. @throws ApiError for one that is elsewhere, or nowhere */
async function allowedPath(root: string | undefined, path: string): Promise<string> {
  const home = await realpath(root!).catch(() => undefined);
  if (home === undefined) throw new ApiError("unavailable", "the server's folder of adapters is not there any more");
  const given = join(home, path);
  const inside = (found: string): boolean => found === home || found.startsWith(home + sep);
  if (!inside(given) || path.includes("\0")) {
    throw new ApiError("forbidden", "path must stay below the folder of adapters", { param: "path" });
  }
  const found = await realpath(given).catch(() => undefined);
  if (found === undefined) {
    throw new ApiError("not_found", `path: there is no ${JSON.stringify(path.slice(0, 200))}`, { param: "path" });
  }
  if (!inside(found)) {
    throw new ApiError("forbidden", "path leads out of the folder of adapters", { param: "path" });
  }
  return found;
}
