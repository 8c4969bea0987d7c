import type { Bound } from "../numbers.ts";
import type { Keywords, SchemaNode, TypeName } from "./keywords.ts";

/** Schemas that must all be met; none: anything goes. */
export type Conjunction = readonly SchemaNode[];

/** What a value must be, without references and alternatives. What is absent or empty asks for nothing. */
export interface Plain {
  /** Where it stands, for errors. */
  readonly path: string;
  readonly types?: readonly TypeName[];
  readonly values?: readonly unknown[];
  readonly patterns: readonly string[];
  readonly formats: readonly string[];
  readonly minLength: number;
  readonly maxLength: number;
  readonly min?: Bound;
  readonly max?: Bound;
  readonly multiples: readonly number[];
  readonly properties: ReadonlyMap<string, Conjunction>;
  readonly required: ReadonlySet<string>;
  /** What properties without a name of their own must be, where that is said. */
  readonly additional?: Conjunction;
  /** What the names of properties must be. */
  readonly names: Conjunction;
  readonly prefix: readonly Conjunction[];
  readonly items?: Conjunction;
  readonly minItems: number;
  readonly maxItems: number;
  /** Nothing beyond what is named. */
  readonly isClosed: boolean;
}

const larger = (a: Bound | undefined, b: Bound | undefined): Bound | undefined => {
  if (!a || !b) return a ?? b;
  return b.value > a.value || (b.value === a.value && b.isExclusive) ? b : a;
};
const negated = (a: Bound | undefined): Bound | undefined => a && { ...a, value: -a.value };
const smaller = (a: Bound | undefined, b: Bound | undefined): Bound | undefined =>
  negated(larger(negated(a), negated(b)));

export const ANYTHING: Plain = {
  path: "#",
  patterns: [],
  formats: [],
  minLength: 0,
  maxLength: Number.POSITIVE_INFINITY,
  multiples: [],
  properties: new Map(),
  required: new Set(),
  names: [],
  prefix: [],
  minItems: 0,
  maxItems: Number.POSITIVE_INFINITY,
  isClosed: false,
};

export function plainOf(k: Keywords, path: string): Plain {
  const bound = (value: number | undefined, isExclusive: boolean): Bound | undefined =>
    value === undefined ? undefined : { value, isExclusive };
  const types = k.type === undefined ? undefined : [k.type].flat();
  const isNullable = k.nullable === true;
  const values = k.enum ?? ("const" in k ? [k.const] : undefined);
  const both = k.enum && "const" in k ? sameValues(k.enum, [k.const]) : values;
  return {
    path,
    types: types && isNullable && !types.includes("null") ? [...types, "null"] : types,
    values: both && isNullable && !both.includes(null) ? [...both, null] : both,
    patterns: k.pattern === undefined ? [] : [k.pattern],
    formats: k.format === undefined ? [] : [k.format],
    minLength: k.minLength ?? 0,
    maxLength: k.maxLength ?? Number.POSITIVE_INFINITY,
    min: larger(bound(k.minimum, false), bound(k.exclusiveMinimum, true)),
    max: smaller(bound(k.maximum, false), bound(k.exclusiveMaximum, true)),
    multiples: k.multipleOf === undefined ? [] : [k.multipleOf],
    properties: new Map(Object.entries(k.properties ?? {}).map(([name, schema]) => [name, conjunction(schema)])),
    required: new Set(k.required),
    additional: k.additionalProperties === undefined ? undefined : conjunction(k.additionalProperties),
    names: k.propertyNames === undefined ? [] : conjunction(k.propertyNames),
    prefix: (k.prefixItems ?? []).map((schema) => conjunction(schema)),
    items: k.items === undefined ? undefined : conjunction(k.items),
    minItems: k.minItems ?? 0,
    maxItems: k.maxItems ?? Number.POSITIVE_INFINITY,
    isClosed: k.unevaluatedProperties === false || k.unevaluatedItems === false,
  };
}

/** Each schema once, and none that allows everything. */
function conjunction(...schemas: readonly SchemaNode[]): Conjunction {
  return [...new Set(schemas)].filter((schema) => schema !== true);
}

function sameValues(a: readonly unknown[], b: readonly unknown[]): unknown[] {
  const keys = new Set(b.map((value) => canonical(value)));
  return a.filter((value) => keys.has(canonical(value)));
}

/** JSON with the names of objects in order. */
export function canonical(value: unknown): string {
  return JSON.stringify(value, (_, inner) =>
    typeof inner === "object" && inner !== null && !Array.isArray(inner)
      ? Object.fromEntries(Object.entries(inner).sort(([a], [b]) => (a < b ? -1 : 1)))
      : inner,
  );
}

/** Both at once. @returns undefined where their types or values exclude each other */
export function both(a: Plain, b: Plain): Plain | undefined {
  const types = a.types && b.types ? sameTypes(a.types, b.types) : (a.types ?? b.types);
  const values = a.values && b.values ? sameValues(a.values, b.values) : (a.values ?? b.values);
  if (types?.length === 0 || values?.length === 0) return undefined;
  const properties = new Map<string, Conjunction>();
  for (const name of [...a.properties.keys(), ...b.properties.keys()]) {
    properties.set(name, conjunction(...propertyOf(a, name), ...propertyOf(b, name)));
  }
  const prefix = Array.from({ length: Math.max(a.prefix.length, b.prefix.length) }, (_, i) =>
    conjunction(...(a.prefix[i] ?? a.items ?? []), ...(b.prefix[i] ?? b.items ?? [])),
  );
  const joined = (x: Conjunction | undefined, y: Conjunction | undefined): Conjunction | undefined =>
    x && y ? conjunction(...x, ...y) : (x ?? y);
  return {
    path: b.path.length > a.path.length ? b.path : a.path,
    types,
    values,
    patterns: [...new Set([...a.patterns, ...b.patterns])],
    formats: [...new Set([...a.formats, ...b.formats])],
    minLength: Math.max(a.minLength, b.minLength),
    maxLength: Math.min(a.maxLength, b.maxLength),
    min: larger(a.min, b.min),
    max: smaller(a.max, b.max),
    multiples: [...new Set([...a.multiples, ...b.multiples])],
    properties,
    required: new Set([...a.required, ...b.required]),
    additional: joined(a.additional, b.additional),
    names: conjunction(...a.names, ...b.names),
    prefix,
    items: joined(a.items, b.items),
    minItems: Math.max(a.minItems, b.minItems),
    maxItems: Math.min(a.maxItems, b.maxItems),
    isClosed: a.isClosed || b.isClosed,
  };
}

/** What a property must be. */
export function propertyOf({ properties, additional }: Plain, name: string): Conjunction {
  return properties.get(name) ?? additional ?? [];
}

function sameTypes(a: readonly TypeName[], b: readonly TypeName[]): TypeName[] {
  const isIn = (type: TypeName, types: readonly TypeName[]): boolean =>
    types.includes(type) || (type === "integer" && types.includes("number"));
  return [...new Set([...a.filter((type) => isIn(type, b)), ...b.filter((type) => isIn(type, a))])];
}
