import { stat } from "node:fs/promises";
import { join } from "node:path";
import type { Logger } from "pino";
import type { AdapterInfo } from "../backend.ts";
import type { AdapterSource } from "./protocol.ts";

/** Files of which a change means that training has saved anew. */
const FILES = ["", "adapter_config.json", "adapter_model.safetensors", "prompt.json", "adapters.safetensors"];

/** What loads adapters and knows where they come from. */
interface Loader {
  readonly sources: readonly AdapterSource[];
  loadAdapter(name: string, dir: string, options?: { readonly scale?: number }): Promise<AdapterInfo>;
}

/**
 * Loads adapters again that were replaced on disk: two looks that agree with each other but not with what was loaded. What cannot
 * be loaded is told, and the version before goes on answering.
 */
export class AdapterReloader {
  readonly #loader: Loader;
  readonly #logger: Logger;
  readonly #loaded = new Map<string, string>();
  readonly #seen = new Map<string, string>();
  readonly #timer: ReturnType<typeof setInterval>;
  #isLooking = false;

  constructor(loader: Loader, { seconds, logger }: { seconds: number; logger: Logger }) {
    this.#loader = loader;
    this.#logger = logger;
    this.#timer = setInterval(() => void this.look(), seconds * 1000);
    this.#timer.unref();
    void this.look();
  }

  /** Looks once. */
  async look(): Promise<void> {
    if (this.#isLooking) return;
    this.#isLooking = true;
    try {
      for (const source of this.#loader.sources) await this.#lookAt(source);
    } finally {
      this.#isLooking = false;
    }
  }

  async #lookAt({ name, dir, scale }: AdapterSource): Promise<void> {
    const key = `${name}\0${dir}`;
    const state = await stateOf(dir);
    const loaded = this.#loaded.get(key);
    const seen = this.#seen.get(key);
    this.#seen.set(key, state);
    if (loaded === undefined) this.#loaded.set(key, state);
    // While files are being written they change from one look to the next.
    if (loaded === undefined || state === loaded || state !== seen) return;
    this.#loaded.set(key, state);
    try {
      const { version } = await this.#loader.loadAdapter(name, dir, { scale });
      this.#logger.info({ adapter: name, version }, "an adapter was replaced on disk and loaded again");
    } catch (error) {
      this.#logger.error({ err: error, adapter: name }, "an adapter was replaced on disk, but cannot be loaded");
    }
  }

  stop(): void {
    clearInterval(this.#timer);
  }
}

async function stateOf(dir: string): Promise<string> {
  const states = await Promise.all(
    FILES.map(async (file) => {
      const found = await stat(join(dir, file)).catch(() => undefined);
      return found ? `${found.ino}:${found.mtimeMs}:${file === "" && found.isDirectory() ? 0 : found.size}` : "";
    }),
  );
  return states.join();
}
