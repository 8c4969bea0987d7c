import { baseMismatch, type Lora, loadAdapter, type PromptFormat, promptFormat, readPrompt } from "@tslm/lora";
import type { QwenModel } from "@tslm/qwen";
import type { AdapterInfo } from "../backend.ts";
import { ApiError } from "../errors.ts";
import type { HostedEngine } from "./host.ts";
import type { AdapterSource } from "./protocol.ts";

/** One version of an adapter. */
interface Version {
  /** What the host calls it. */
  readonly key: string;
  readonly number: number;
  readonly lora: Lora;
  readonly prompt: PromptFormat;
  readonly scale: number;
  running: number;
  /** Another version has taken its place, or it was unloaded. */
  isReplaced: boolean;
}

/** A version in use; `leave` gives it back. */
export interface UsedAdapter {
  readonly key: string;
  readonly version: number;
  readonly prompt: PromptFormat;
  leave(): void;
}

/**
 * Adapters by their names. One that is loaded again takes the place of the one before for what comes; what began with the old
 * version ends with it, and only then is it freed.
 */
export class Adapters {
  readonly #model: QwenModel;
  readonly #baseName: string;
  readonly #host: Pick<HostedEngine, "addAdapter" | "removeAdapter">;
  readonly #onWarning: (message: string) => void;
  readonly #onChange: () => void;
  readonly #current = new Map<string, Version>();
  readonly #all = new Set<Version & { readonly name: string }>();
  #versions = 0;

  constructor(options: {
    model: QwenModel;
    baseName: string;
    host: Pick<HostedEngine, "addAdapter" | "removeAdapter">;
    onWarning: (message: string) => void;
    onChange: () => void;
  }) {
    this.#model = options.model;
    this.#baseName = options.baseName;
    this.#host = options.host;
    this.#onWarning = options.onWarning;
    this.#onChange = options.onChange;
  }

  get infos(): AdapterInfo[] {
    return [...this.#current].map(([name, version]) => this.#infoOf(name, version));
  }

  /** @throws AdapterError when it cannot be read or does not fit the model */
  async load({ name, dir, scale = 1 }: AdapterSource): Promise<AdapterInfo> {
    const lora = await loadAdapter(dir, this.#model);
    lora.detach();
    try {
      const prompt = await readPrompt(dir);
      const mismatch = await baseMismatch(prompt, this.#model);
      if (mismatch !== undefined) this.#onWarning(`the adapter in ${dir} ${mismatch}`);
      const number = ++this.#versions;
      const version = {
        name,
        key: `${name}@${number}`,
        number,
        lora,
        prompt: prompt ?? promptFormat(this.#baseName),
        scale,
        running: 0,
        isReplaced: false,
      };
      this.#host.addAdapter(version.key, lora, scale);
      this.#all.add(version);
      const before = this.#current.get(name);
      this.#current.set(name, version);
      if (before) this.#retire(before);
      this.#onChange();
      return this.#infoOf(name, version);
    } catch (error) {
      lora.remove();
      throw error;
    }
  }

  /** @throws ApiError "not_found" */
  unload(name: string): void {
    const version = this.#find(name);
    this.#current.delete(name);
    this.#retire(version);
    this.#onChange();
  }

  /** How the adapter of that name wants questions put. @throws ApiError "not_found" */
  promptOf(name: string | null): PromptFormat | undefined {
    return name === null ? undefined : this.#find(name).prompt;
  }

  /** The present version of an adapter, for one answer. @throws ApiError "not_found" */
  use(name: string): UsedAdapter {
    const version = this.#find(name);
    version.running++;
    let isLeft = false;
    return {
      key: version.key,
      version: version.number,
      prompt: version.prompt,
      leave: () => {
        if (isLeft) return;
        isLeft = true;
        version.running--;
        if (version.isReplaced) this.#retire(version);
        this.#onChange();
      },
    };
  }

  #find(name: string): Version {
    const version = this.#current.get(name);
    if (version) return version;
    throw new ApiError("not_found", `no adapter is called ${JSON.stringify(name.slice(0, 100))}`, { param: "model" });
  }

  #retire(version: Version): void {
    version.isReplaced = true;
    if (version.running > 0) return;
    this.#all.delete(version as Version & { name: string });
    // Answers that were cancelled go through it once more.
    void this.#host.removeAdapter(version.key).then(() => version.lora.remove());
  }

  #infoOf(name: string, { number, scale, lora }: Version): AdapterInfo {
    let running = 0;
    for (const version of this.#all) if (version.name === name) running += version.running;
    return { name, version: number, scale, rank: lora.config.r, running };
  }
}
