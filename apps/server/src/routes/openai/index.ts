import type { Router } from "../../http/route.ts";
import type { Service } from "../../service.ts";
import { chatCompletions } from "./chat.ts";
import { completions } from "./completions.ts";
import { embeddings } from "./embeddings.ts";
import { modelRoutes } from "./models.ts";

/** OpenAI's interface, below `/v1`. */
export function openaiRoutes(app: Router, service: Service): void {
  chatCompletions(app, service);
  completions(app, service);
  embeddings(app, service);
  modelRoutes(app, service);
}
