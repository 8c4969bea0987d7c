import type { Word } from "../context.ts";

type Scalar = "u32" | "i32" | "f32";

/** A kernel's numbers, in order: the declaration in its shader, and the words that the context takes. */
export class Params<Name extends string> {
  readonly #fields: readonly (readonly [Name, Scalar])[];

  constructor(fields: { readonly [K in Name]: Scalar }) {
    this.#fields = Object.entries(fields) as [Name, Scalar][];
  }

  /** The uniform `p`. */
  get source(): string {
    const fields = this.#fields.map(([name, type]) => `${name}: ${type},`).join(" ");
    return `struct Params { ${fields} }\n@group(0) @binding(0) var<uniform> p: Params;\n`;
  }

  /** Values that are all 0, to begin with. */
  zeros(): { [K in Name]: number } {
    return Object.fromEntries(this.#fields.map(([name]) => [name, 0])) as { [K in Name]: number };
  }

  words(values: { readonly [K in Name]: number }): Word[] {
    return this.#fields.map(([name, type]) => (type === "f32" ? { f32: values[name] } : values[name]));
  }
}

/** `count` pieces of WGSL, one after another. */
export function repeat(count: number, piece: (i: number) => string): string {
  return Array.from({ length: count }, (_, i) => piece(i)).join("\n");
}
