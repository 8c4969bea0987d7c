import { ApiError } from "../../errors.ts";
import { jsonRoute, type Router } from "../../http/route.ts";
import type { Service } from "../../service.ts";
import { embeddingBody, embeddings as embeddingsSchema } from "./schemas.ts";

/** `POST /v1/embeddings`: means of the base model's last hidden states, of length 1 as OpenAI's are. */
export function embeddings(app: Router, service: Service): void {
  const { limits, models } = service;
  jsonRoute(
    app,
    {
      method: "post",
      path: "/v1/embeddings",
      tag: "OpenAI",
      summary: "Vectors of texts",
      limits,
      body: embeddingBody(limits),
      answers: { description: "The vectors", json: embeddingsSchema },
      errors: [404],
    },
    async (c, body) => {
      models.baseOnly(body.model, c.get("client"));
      const { hiddenSize } = service.backend.info;
      if (body.dimensions != null && body.dimensions !== hiddenSize) {
        throw new ApiError("invalid_request", `dimensions must be ${hiddenSize}; this model's vectors cannot be cut`, {
          param: "dimensions",
          code: "unsupported_value",
        });
      }
      const { vectors, tokens } = await service.answers.embed(c, inputsOf(body.input));
      c.get("outcome").prompt_tokens = tokens;
      const write = body.encoding_format === "base64" ? base64 : (vector: Float32Array) => [...vector];
      return c.json({
        object: "list" as const,
        model: body.model,
        data: vectors.map((vector, index) => ({ object: "embedding" as const, index, embedding: write(unit(vector)) })),
        usage: { prompt_tokens: tokens, total_tokens: tokens },
      });
    },
  );
}

export function inputsOf(input: string | string[] | number[] | number[][]): (string | number[])[] {
  if (typeof input === "string") return [input];
  return typeof input[0] === "number" ? [input as number[]] : (input as (string | number[])[]);
}

/** The vector of length 1 in the same direction. */
export function unit(vector: Float32Array): Float32Array {
  const length = Math.hypot(...vector);
  return length > 0 ? vector.map((x) => x / length) : vector;
}

function base64(vector: Float32Array): string {
  return Buffer.from(vector.buffer, vector.byteOffset, vector.byteLength).toString("base64");
}
