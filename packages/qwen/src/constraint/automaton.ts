/** No state: the text cannot go on like this. */
export const NONE = -1;

/**
 * A deterministic automaton over bytes, one terminal of a grammar. From every state that `next` gives, an accepting one
 * can be reached.
 */
export interface ByteAutomaton {
  /** Bytes of one class are treated alike. */
  readonly classOf: Uint8Array;
  readonly start: number;
  next(state: number, byte: number): number;
  accepts(state: number): boolean;
  /** Can nothing follow? */
  isLast(state: number): boolean;
  /** Characters of plain text (see `PLAIN`) that may follow, whichever they are; Infinity where any number may. */
  plainCharacters(state: number): number;
  /** Is plain text of more than `plainCharacters` refused, whichever it is? */
  refusesLonger(state: number): boolean;
}

/** An automaton whose every transition is in a table. */
export class TableAutomaton implements ByteAutomaton {
  readonly classOf: Uint8Array;
  readonly classes: number;
  /** [states, classes] */
  readonly table: Int32Array;
  readonly accepting: Uint8Array;
  readonly start: number;
  readonly #last: Uint8Array;
  #plain: Float64Array | undefined;

  constructor(parts: {
    classOf: Uint8Array;
    classes: number;
    table: Int32Array;
    accepting: Uint8Array;
    start?: number;
  }) {
    this.classOf = parts.classOf;
    this.classes = parts.classes;
    this.table = parts.table;
    this.accepting = parts.accepting;
    this.start = parts.start ?? 0;
    this.#last = new Uint8Array(this.accepting.length).fill(1);
    for (let i = 0; i < this.table.length; i++) {
      if (this.table[i] >= 0) this.#last[Math.floor(i / this.classes)] = 0;
    }
  }

  get states(): number {
    return this.accepting.length;
  }
  next(state: number, byte: number): number {
    return this.table[state * this.classes + this.classOf[byte]];
  }
  accepts(state: number): boolean {
    return this.accepting[state] === 1;
  }
  isLast(state: number): boolean {
    return this.#last[state] === 1;
  }
  plainCharacters(state: number): number {
    this.#plain ??= plainDistances(this);
    return this.#plain[state];
  }
  refusesLonger(state: number): boolean {
    return this.isLast(state);
  }
}

/**
 * UTF-8 of plain text: the characters from U+0020 on that need no escape in JSON and are no line ends. State 0 is between
 * characters. Rows are [first byte, last byte, next state] for each state.
 */
const PLAIN: readonly (readonly (readonly [number, number, number])[])[] = [
  [
    [0x20, 0x21, 0],
    [0x23, 0x5b, 0],
    [0x5d, 0x7f, 0],
    [0xc2, 0xdf, 1],
    [0xe0, 0xe0, 2],
    [0xe1, 0xe1, 3],
    [0xe2, 0xe2, 7],
    [0xe3, 0xec, 3],
    [0xed, 0xed, 4],
    [0xee, 0xef, 3],
    [0xf0, 0xf0, 5],
    [0xf1, 0xf3, 8],
    [0xf4, 0xf4, 6],
  ],
  [[0x80, 0xbf, 0]],
  [[0xa0, 0xbf, 1]],
  [[0x80, 0xbf, 1]],
  [[0x80, 0x9f, 1]],
  [[0x90, 0xbf, 3]],
  [[0x80, 0x8f, 3]],
  // U+2028 and U+2029, E2 80 A8 and E2 80 A9, are line ends.
  [
    [0x80, 0x80, 9],
    [0x81, 0xbf, 1],
  ],
  [[0x80, 0xbf, 3]],
  [
    [0x80, 0xa7, 0],
    [0xaa, 0xbf, 0],
  ],
];

/** [states of PLAIN, 256]: the state after a byte, or 255. */
const PLAIN_TABLE = (() => {
  const table = new Uint8Array(PLAIN.length * 256).fill(255);
  PLAIN.forEach((row, state) => {
    for (const [first, last, to] of row) table.fill(to, state * 256 + first, state * 256 + last + 1);
  });
  return table;
})();

/** Counts the characters of a token that is plain text from one character's beginning to another's end; -1: it is not. */
export function plainLength(bytes: Uint8Array): number {
  let [state, count] = [0, 0];
  for (let i = 0; i < bytes.length; i++) {
    state = PLAIN_TABLE[state * 256 + bytes[i]];
    if (state === 255) return -1;
    if (state === 0) count++;
  }
  return state === 0 ? count : -1;
}

/** For each state, the characters after which the automaton may first refuse a plain one: a shortest path to a refusal. */
function plainDistances(automaton: TableAutomaton): Float64Array {
  const { states, classes, classOf, table } = automaton;
  const width = PLAIN.length;
  const rows = PLAIN.map((row) =>
    row.flatMap(([first, last, to]) => {
      const seen = new Set(classOf.subarray(first, last + 1));
      return [...seen].map((byteClass) => [byteClass, to] as const);
    }),
  );
  const distance = new Float64Array(states * width).fill(Number.POSITIVE_INFINITY);
  const before: number[][] = Array.from({ length: states * width }, () => []);
  let level: number[] = [];
  for (let state = 0; state < states; state++) {
    for (let plain = 0; plain < width; plain++) {
      const from = state * width + plain;
      for (const [byteClass, to] of rows[plain]) {
        const next = table[state * classes + byteClass];
        if (next >= 0) before[next * width + to].push(from);
        else if (distance[from] !== 0) {
          distance[from] = 0;
          level.push(from);
        }
      }
    }
  }
  // Breadth first; only what ends a character costs one.
  for (let at = 0; level.length > 0; at++) {
    const later: number[] = [];
    for (let i = 0; i < level.length; i++) {
      const node = level[i];
      if (distance[node] < at) continue;
      const ends = node % width === 0;
      for (const from of before[node]) {
        const reached = ends ? at + 1 : at;
        if (distance[from] <= reached) continue;
        distance[from] = reached;
        (ends ? later : level).push(from);
      }
    }
    level = later;
  }
  return Float64Array.from({ length: states }, (_, state) => distance[state * width]);
}
