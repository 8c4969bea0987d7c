/**
 * Those who wait: higher priorities first, within one the clients in turns, and of one client's the oldest. A client that
 * asks for much does not make the others wait.
 */
export class FairQueue<T> {
  /** Clients of each priority, the next one first, and what they wait for. */
  readonly #priorities = new Map<number, Map<string, T[]>>();
  #size = 0;

  get size(): number {
    return this.#size;
  }

  push(item: T, { priority = 0, client = "" }: { readonly priority?: number; readonly client?: string }): void {
    let clients = this.#priorities.get(priority);
    if (!clients) this.#priorities.set(priority, (clients = new Map()));
    const waiting = clients.get(client);
    if (waiting) waiting.push(item);
    else clients.set(client, [item]);
    this.#size++;
  }

  /** Who is next. */
  peek(): T | undefined {
    return this.#next()?.waiting[0];
  }

  /** Takes the next one out; its client's turn comes after the others'. */
  shift(): T | undefined {
    const next = this.#next();
    if (!next) return undefined;
    const { priority, clients, client, waiting } = next;
    const item = waiting.shift();
    clients.delete(client);
    if (waiting.length > 0) clients.set(client, waiting);
    if (clients.size === 0) this.#priorities.delete(priority);
    this.#size--;
    return item;
  }

  /** Is `test` true of any? */
  some(test: (item: T) => boolean): boolean {
    for (const clients of this.#priorities.values()) {
      for (const waiting of clients.values()) if (waiting.some(test)) return true;
    }
    return false;
  }

  /** Takes out all that `test` is true of. */
  remove(test: (item: T) => boolean): T[] {
    const removed: T[] = [];
    for (const [priority, clients] of this.#priorities) {
      for (const [client, waiting] of clients) {
        const left = waiting.filter((item) => !test(item) || void removed.push(item));
        if (left.length === waiting.length) continue;
        if (left.length > 0) clients.set(client, left);
        else clients.delete(client);
      }
      if (clients.size === 0) this.#priorities.delete(priority);
    }
    this.#size -= removed.length;
    return removed;
  }

  #next() {
    if (this.#size === 0) return undefined;
    const priority = Math.max(...this.#priorities.keys());
    const clients = this.#priorities.get(priority)!;
    const [client, waiting] = clients.entries().next().value!;
    return { priority, clients, client, waiting };
  }
}
