import { Database } from "bun:sqlite";
import { ApiError } from "../errors.ts";

/** A message that was kept. */
export interface KeptMessage {
  readonly role: "system" | "user" | "assistant";
  readonly content: string;
  readonly adapter: string | null;
  /** Milliseconds since 1970. */
  readonly at: number;
}

export interface KeptConversation {
  readonly id: string;
  readonly created: number;
  readonly updated: number;
  readonly messages: number;
}

const DAY_MS = 86_400_000;
const SCHEMA = `
  CREATE TABLE IF NOT EXISTS conversations (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, created INTEGER NOT NULL, updated INTEGER NOT NULL
  ) STRICT;
  CREATE INDEX IF NOT EXISTS by_owner ON conversations (owner, updated);
  CREATE TABLE IF NOT EXISTS messages (
    conversation TEXT NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
    role TEXT NOT NULL, content TEXT NOT NULL, adapter TEXT, at INTEGER NOT NULL
  ) STRICT;
  CREATE INDEX IF NOT EXISTS by_conversation ON messages (conversation);
`;

/**
 * Conversations that clients asked to be kept, in an SQLite file. Each belongs to the key (or the address) that began it, and
 * nobody else sees it. What is erased is overwritten with zeros in the file.
 */
export class Conversations {
  readonly #database: Database;
  readonly #days: number;

  constructor(file: string, { days }: { days: number }) {
    this.#database = new Database(file, { create: true, strict: true });
    this.#days = days;
    this.#database.run("PRAGMA journal_mode = WAL");
    this.#database.run("PRAGMA secure_delete = ON");
    this.#database.run("PRAGMA foreign_keys = ON");
    this.#database.run(SCHEMA);
    this.#eraseOld();
  }

  create(owner: string): string {
    this.#eraseOld();
    const id = crypto.randomUUID();
    const now = Date.now();
    this.#database
      .query("INSERT INTO conversations (id, owner, created, updated) VALUES (?, ?, ?, ?)")
      .run(id, owner, now, now);
    return id;
  }

  /** The newest first. */
  list(owner: string): KeptConversation[] {
    return this.#database
      .query<KeptConversation, [string]>(
        `SELECT id, created, updated, (SELECT count(*) FROM messages WHERE conversation = id) AS messages
         FROM conversations WHERE owner = ? ORDER BY updated DESC`,
      )
      .all(owner);
  }

  /** @throws ApiError "not_found" for one that is not there, or someone else's */
  messages(owner: string, id: string): KeptMessage[] {
    this.#check(owner, id);
    return this.#database
      .query<KeptMessage, [string]>(
        "SELECT role, content, adapter, at FROM messages WHERE conversation = ? ORDER BY rowid",
      )
      .all(id);
  }

  /** Adds a question and its answer, unless the conversation was erased meanwhile. */
  add(owner: string, id: string, question: string, answer: string, adapter: string | null): void {
    const insert = this.#database.query(
      "INSERT INTO messages (conversation, role, content, adapter, at) VALUES (?, ?, ?, ?, ?)",
    );
    this.#database.transaction(() => {
      const now = Date.now();
      const { changes } = this.#database
        .query("UPDATE conversations SET updated = ? WHERE id = ? AND owner = ?")
        .run(now, id, owner);
      if (changes === 0) return;
      insert.run(id, "user", question, adapter, now);
      insert.run(id, "assistant", answer, adapter, now);
    })();
  }

  /** @throws ApiError "not_found" */
  erase(owner: string, id: string): void {
    this.#check(owner, id);
    this.#database.query("DELETE FROM conversations WHERE id = ?").run(id);
    this.#clean();
  }

  /** All of an owner's; gives how many they were. */
  eraseAll(owner: string): number {
    const { changes } = this.#database.query("DELETE FROM conversations WHERE owner = ?").run(owner);
    this.#clean();
    return changes;
  }

  close(): void {
    this.#database.close();
  }

  #check(owner: string, id: string): void {
    const found = this.#database.query("SELECT 1 FROM conversations WHERE id = ? AND owner = ?").get(id, owner);
    if (found === null) throw new ApiError("not_found", "there is no such conversation", { param: "conversation" });
  }

  #eraseOld(): void {
    const { changes } = this.#database
      .query("DELETE FROM conversations WHERE updated < ?")
      .run(Date.now() - this.#days * DAY_MS);
    if (changes > 0) this.#clean();
  }

  /** What was erased stands in the log of writes too, until that is begun anew. */
  #clean(): void {
    this.#database.run("PRAGMA wal_checkpoint(TRUNCATE)");
  }
}
