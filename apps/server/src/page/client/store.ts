/** One of the answers to a question. */
export interface Answer {
  /** Who gave it; null is the base model. */
  adapter: string | null;
  text: string;
  state: "busy" | "done" | "stopped" | "length" | "error";
  error?: string;
  /** Tokens a second. */
  speed?: number;
}

/** A question and its answers: one, or two side by side. */
export interface Turn {
  question: string;
  answers: Answer[];
}

export interface Chat {
  id: string;
  turns: Turn[];
}

export interface Settings {
  system: string;
  temperature: number;
  topP: number;
  maxTokens: string;
  seed: string;
  theme: string;
}

export const DEFAULTS: Settings = { system: "", temperature: 0, topP: 1, maxTokens: "", seed: "", theme: "" };

const MOST_CHATS = 50;

/** What the browser keeps; nothing where it may keep nothing (private mode, full). */
function read<T>(key: string, otherwise: T): T {
  try {
    const text = localStorage.getItem(`tslm.${key}`);
    return text === null ? otherwise : (JSON.parse(text) as T);
  } catch {
    return otherwise;
  }
}

function write(key: string, value: unknown): boolean {
  try {
    localStorage.setItem(`tslm.${key}`, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}

export const kept = {
  language: (): string | undefined => read<string | undefined>("language", undefined),
  keepLanguage: (language: string) => write("language", language),
  settings: (): Settings => ({ ...DEFAULTS, ...read<Partial<Settings>>("settings", {}) }),
  keepSettings: (settings: Settings) => write("settings", settings),
  compares: (): boolean => read("compare", false),
  keepCompares: (compares: boolean) => write("compare", compares),
  /** The newest first. What is no list of chats, from another version, is left out. */
  chats: (): Chat[] => {
    const chats = read<unknown>("chats", []);
    const isChat = (chat: Chat | null): boolean => typeof chat?.id === "string" && Array.isArray(chat.turns);
    return Array.isArray(chats) ? (chats as Chat[]).filter(isChat) : [];
  },
  /** Keeps as many of the newest chats as there is room for. */
  keepChats: (chats: readonly Chat[]): void => {
    for (let count = Math.min(chats.length, MOST_CHATS); ; count = count >> 1) {
      if (write("chats", chats.slice(0, count)) || count === 0) return;
    }
  },
};

/** The API key stays in this tab. */
export const key = {
  get: (): string | null => {
    try {
      return sessionStorage.getItem("tslm.key");
    } catch {
      return null;
    }
  },
  set: (value: string): void => {
    try {
      sessionStorage.setItem("tslm.key", value);
    } catch {
      // Private mode: it is asked for again.
    }
  },
};
