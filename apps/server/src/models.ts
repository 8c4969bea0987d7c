import type { Backend } from "./backend.ts";
import type { Client } from "./env.ts";
import { ApiError } from "./errors.ts";

const quoted = (names: readonly string[]): string => names.map((name) => JSON.stringify(name)).join(", ");

/** Finds what answers by the names that clients use: the base model's, an adapter's, or another name for one of them. */
export class Models {
  readonly #backend: Backend;
  readonly #aliases: Readonly<Record<string, string>>;

  constructor(backend: Backend, aliases: Readonly<Record<string, string>>) {
    this.#backend = backend;
    this.#aliases = aliases;
  }

  /** Names that may be given as `model`, the default one first. */
  get names(): string[] {
    const { model, adapters } = this.#backend;
    return [...new Set([...adapters.map(({ name }) => name), model, ...Object.keys(this.#aliases)])];
  }

  /** The adapter of that name; null for the base model. @throws ApiError "not_found", "forbidden" */
  ofModel(name: string, client: Client): string | null {
    const meant = Object.hasOwn(this.#aliases, name) ? this.#aliases[name] : name;
    const isKnown = meant === this.#backend.model || this.#isAdapter(meant);
    if (!isKnown) {
      const message = `The model ${quoted([name.slice(0, 100)])} does not exist; there are ${quoted(this.names)}`;
      throw new ApiError("not_found", message, { param: "model", code: "model_not_found" });
    }
    this.#check(meant, client);
    return meant === this.#backend.model ? null : meant;
  }

  /** Checks that a name is the base model's, for what adapters cannot do. @throws ApiError */
  baseOnly(name: string, client: Client): void {
    if (this.ofModel(name, client) === null) return;
    throw new ApiError(
      "invalid_request",
      `model must be ${quoted([this.#backend.model])}: vectors are the base model's`,
      {
        param: "model",
        code: "unsupported_value",
      },
    );
  }

  /** The adapter of that name, as `/chat` names it: null is the base model. @throws ApiError "not_found", "forbidden" */
  ofAdapter(name: string | null, client: Client): string | null {
    if (name !== null && !this.#isAdapter(name)) {
      const names = this.#backend.adapters.map((adapter) => adapter.name);
      const known = names.length === 0 ? "none is loaded" : `there are ${quoted(names)}`;
      throw new ApiError(
        "not_found",
        `no adapter is called ${quoted([name.slice(0, 100)])}; ${known}, and null is the base model`,
        { param: "adapter" },
      );
    }
    this.#check(name ?? this.#backend.model, client);
    return name;
  }

  /** May this client use it? */
  isAllowed(name: string, { key }: Client): boolean {
    return key?.models === undefined || key.models.includes(name);
  }

  #check(name: string, client: Client): void {
    if (this.isAllowed(name, client)) return;
    throw new ApiError("forbidden", `the key ${client.name} may not use ${quoted([name])}`, { param: "model" });
  }

  #isAdapter(name: string): boolean {
    return this.#backend.adapters.some((adapter) => adapter.name === name);
  }
}
