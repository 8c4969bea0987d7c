/**
 * What strangers may ask for. Everything that is compiled is bounded by these, so that a hostile schema or pattern costs
 * a fraction of a second and some megabytes, and ends with an error that names the limit.
 */
export const LIMITS = {
  /** Steps of compiling one schema or pattern, all its parts together: about a second. */
  steps: 4_000_000,
  /** Characters of a schema as JSON. */
  schemaLength: 256 * 1024,
  /** Levels of brackets in a schema as JSON. */
  schemaDepth: 128,
  /** Ways in which one value may be written after anyOf, oneOf, allOf and $ref were taken apart. */
  alternatives: 256,
  /** States of the grammar that a schema becomes. */
  grammarStates: 50_000,
  /** Bytes in all the terminals' tables of one constraint. */
  tableBytes: 8 << 20,
  /** Items that minItems and maxItems may count. */
  items: 4096,
  /** Values of an enum or a list of choices, and their bytes together. */
  choices: 10_000,
  choiceBytes: 32 << 10,
  /** Largest multipleOf. */
  multipleOf: 1000,
  /** Characters and groups within groups of a pattern. */
  patternLength: 2000,
  patternDepth: 50,
  /** Largest count in `{m,n}`. */
  repeat: 1000,
  /** States of a pattern's automaton before and after it was made deterministic. */
  nfaStates: 50_000,
  dfaStates: 10_000,
  /** Ways to read the text so far that are followed; more are left out, which only narrows what is allowed. */
  readings: 1024,
  /** Readings that are followed byte by byte for one mask: half a second. */
  maskSteps: 1_000_000,
  /** States of a constraint that are kept at once, and masks (19 KB each for 151,936 tokens). */
  keptStates: 10_000,
  keptMasks: 128,
} as const;
