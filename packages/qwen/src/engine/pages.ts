/** Rows of a page: whole tiles of keys on every device, and a prefix is shared by whole pages. */
export const PAGE_ROWS = 16;

/** Pages of a cache of fixed size, each with the number of those who hold it. */
export class PagePool {
  readonly size: number;
  readonly #holders: Int32Array;
  readonly #free: number[];

  constructor(size: number) {
    this.size = size;
    this.#holders = new Int32Array(size);
    // Low pages first, so that memory that was never needed is never touched.
    this.#free = Array.from({ length: size }, (_, i) => size - 1 - i);
  }

  /** Pages nobody holds. */
  get free(): number {
    return this.#free.length;
  }
  /** How many hold a page. */
  holders(page: number): number {
    return this.#holders[page];
  }
  /** A page that nobody holds, held by the caller; undefined when there is none. */
  take(): number | undefined {
    const page = this.#free.pop();
    if (page !== undefined) this.#holders[page] = 1;
    return page;
  }
  hold(page: number): void {
    this.#holders[page]++;
  }
  release(page: number): void {
    if (--this.#holders[page] === 0) this.#free.push(page);
  }
}

/** Where one sequence's keys and values lie: its pages in order, and the cache row of each of its places. */
export class PageTable {
  readonly #pool: PagePool;
  readonly #pages: number[] = [];
  #rows = new Int32Array(4 * PAGE_ROWS);

  constructor(pool: PagePool) {
    this.#pool = pool;
  }

  /** Places there is room for. */
  get capacity(): number {
    return this.#pages.length * PAGE_ROWS;
  }
  /** Cache rows of the places `from … to`. Belongs to the table. */
  rows(from: number, to: number): Int32Array {
    return this.#rows.subarray(from, to);
  }
  page(index: number): number {
    return this.#pages[index];
  }
  /** Puts a page behind the others; the caller's hold on it is the table's from then on. */
  push(page: number): void {
    const first = this.capacity;
    if (first + PAGE_ROWS > this.#rows.length) {
      const grown = new Int32Array(2 * this.#rows.length);
      grown.set(this.#rows);
      this.#rows = grown;
    }
    for (let i = 0; i < PAGE_ROWS; i++) this.#rows[first + i] = page * PAGE_ROWS + i;
    this.#pages.push(page);
  }
  /** Takes another page, held by the caller, in the place of one that holds the same numbers. */
  replace(index: number, page: number): void {
    this.#pool.release(this.#pages[index]);
    this.#pages[index] = page;
    for (let i = 0; i < PAGE_ROWS; i++) this.#rows[index * PAGE_ROWS + i] = page * PAGE_ROWS + i;
  }
  /** Lets go of all pages. */
  clear(): void {
    for (const page of this.#pages.splice(0)) this.#pool.release(page);
  }
}
