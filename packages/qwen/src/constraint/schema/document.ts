import type { Budget } from "../budget.ts";
import { ConstraintError } from "../errors.ts";
import { LIMITS } from "../limits.ts";
import { checkSize, type Keywords, readKeywords, type SchemaNode } from "./keywords.ts";
import { ANYTHING, both, type Conjunction, type Plain, plainOf } from "./plain.ts";

/** What a look at one schema, or one of its properties, counts. */
const STEPS = 20;

interface ReadNode {
  readonly id: number;
  readonly path: string;
  readonly keywords: Keywords;
  readonly plain: Plain;
}

/** A schema with everything it refers to, read as it is needed. */
export class SchemaDocument {
  readonly root: SchemaNode;
  readonly #nodes = new Map<object, ReadNode>();
  readonly #paths = new Map<object, string>();
  readonly #budget: Budget;
  /** Tells whether no value meets all of a schema's keywords. */
  readonly #isEmpty: (plain: Plain) => boolean;

  constructor(schema: unknown, { isEmpty, budget }: { isEmpty: (plain: Plain) => boolean; budget: Budget }) {
    this.#budget = budget;
    checkSize(schema);
    if (typeof schema !== "boolean" && (typeof schema !== "object" || schema === null || Array.isArray(schema))) {
      throw new ConstraintError("the schema must be an object, true or false");
    }
    this.root = schema as SchemaNode;
    this.#isEmpty = isEmpty;
    this.#name(schema, "#");
  }

  /** A name that is the same for the same schemas in any order. */
  key(schemas: Conjunction): string {
    const ids = schemas.map((schema) => (typeof schema === "boolean" ? String(schema) : this.#read(schema).id));
    return [...new Set(ids)].sort().join("&");
  }

  /** What a value may be that meets all schemas: it must meet one of the results. */
  alternatives(schemas: Conjunction): Plain[] {
    return schemas.reduce<Plain[]>((found, schema) => this.#cross(found, this.#of(schema, [])), [ANYTHING]);
  }

  #name(value: unknown, path: string): void {
    if (typeof value !== "object" || value === null) return;
    this.#paths.set(value, path);
    for (const [key, inner] of Object.entries(value)) {
      this.#name(inner, `${path}/${key.replaceAll("~", "~0").replaceAll("/", "~1")}`);
    }
  }

  #read(node: object): ReadNode {
    let read = this.#nodes.get(node);
    if (!read) {
      const path = this.#paths.get(node) ?? "#";
      const keywords = readKeywords(node as Readonly<Record<string, unknown>>, path);
      read = { id: this.#nodes.size, path, keywords, plain: plainOf(keywords, path) };
      this.#nodes.set(node, read);
    }
    return read;
  }

  /** @param within the schemas that are being taken apart: one that refers to itself adds nothing that way */
  #of(node: SchemaNode, within: readonly object[]): Plain[] {
    if (typeof node === "boolean") return node ? [ANYTHING] : [];
    if (within.includes(node)) return [];
    this.#budget.spend(STEPS);
    if (within.length > LIMITS.schemaDepth) {
      throw new ConstraintError(
        `the schema's references and alternatives are more than ${LIMITS.schemaDepth} levels deep`,
      );
    }
    const { keywords, plain, path } = this.#read(node);
    const inner = [...within, node];
    let found: Plain[] = [plain];
    if (keywords.$ref !== undefined) {
      found = this.#cross(found, this.#of(this.#resolve(keywords.$ref, path), inner));
    }
    for (const part of keywords.allOf ?? []) found = this.#cross(found, this.#of(part, inner));
    if (keywords.anyOf) {
      found = this.#cross(found, this.#within(keywords.anyOf.flatMap((part) => this.#of(part, inner))));
    }
    if (keywords.oneOf) {
      const parts = keywords.oneOf.map((part) => this.#cross(found, this.#of(part, inner)));
      this.#checkDisjoint(parts, path);
      found = this.#within(parts.flat());
    }
    return found;
  }

  #cross(a: readonly Plain[], b: readonly Plain[]): Plain[] {
    const found: Plain[] = [];
    for (const x of a) {
      for (const y of b) {
        this.#budget.spend(STEPS * (1 + x.properties.size + y.properties.size + (x.values?.length ?? 0)));
        const joined = x === ANYTHING ? y : y === ANYTHING ? x : both(x, y);
        if (joined) found.push(joined);
      }
      this.#within(found);
    }
    return found;
  }

  #within(plains: Plain[]): Plain[] {
    if (plains.length > LIMITS.alternatives) {
      throw new ConstraintError(
        `the schema at ${plains[0].path} has more than ${LIMITS.alternatives} alternatives together with anyOf, oneOf and $ref`,
      );
    }
    return plains;
  }

  #checkDisjoint(parts: readonly Plain[][], path: string): void {
    for (let i = 0; i < parts.length; i++) {
      for (let j = 0; j < i; j++) {
        for (const a of parts[i]) {
          for (const b of parts[j]) {
            this.#budget.spend(STEPS * (1 + a.properties.size + b.properties.size));
            const joined = both(a, b);
            if (!joined || this.#isEmpty(joined)) continue;
            throw new ConstraintError(
              `the schema at ${path}/oneOf: alternatives ${j + 1} and ${i + 1} may both be met, which oneOf forbids; ` +
                "use anyOf, or give them a required property with different const values",
            );
          }
        }
      }
    }
  }

  #resolve(ref: string, path: string): SchemaNode {
    const fail = (problem: string): never => {
      throw new ConstraintError(`the schema at ${path}/$ref: ${JSON.stringify(ref.slice(0, 100))} ${problem}`);
    };
    if (!ref.startsWith("#")) fail("lies outside the schema; only references within it (#/$defs/…) are supported");
    if (ref !== "#" && !ref.startsWith("#/")) fail("is an anchor; use a path such as #/$defs/name");
    let at: unknown = this.root;
    for (const part of ref === "#" ? [] : ref.slice(2).split("/")) {
      let name = part;
      try {
        name = decodeURIComponent(part);
      } catch {
        fail("is no valid reference");
      }
      name = name.replaceAll("~1", "/").replaceAll("~0", "~");
      const isThere = typeof at === "object" && at !== null && Object.hasOwn(at, name);
      at = isThere ? (at as Record<string, unknown>)[name] : fail("does not exist in the schema");
    }
    if (typeof at !== "boolean" && (typeof at !== "object" || at === null || Array.isArray(at))) {
      fail("is not a schema");
    }
    return at as SchemaNode;
  }
}
