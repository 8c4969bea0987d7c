import { existsSync } from "node:fs";
import { resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { type DownloadProgress, HubError, Qwen, resolveModel } from "@tslm/qwen";
import {
  createDevice,
  DEVICE_NAMES,
  type Device,
  setDefaultDevice,
  type DeviceName as TensorDeviceName,
} from "@tslm/tensor";

import { CommandError } from "./errors.ts";
import { DEFAULT_MODEL, type DeviceName, type ModelOptions } from "./options.ts";
import { bytes, Progress } from "./progress.ts";
import type { Context } from "./run.ts";
import type { Terminal } from "./terminal.ts";

/** The small model that ships with the program. */
export const DEMO = "demo";
const DEMO_DIR = fileURLToPath(new URL("../../../models/demo", import.meta.url));

/** Where a model was found. */
export interface LocatedModel {
  readonly dir: string;
  /** What to call it: the name on the hub, the folder, or demo. */
  readonly name: string;
  readonly source: "folder" | "gguf" | "modelscope" | "huggingface" | "demo";
}

/**
 * How long each hub may take to answer for the first time, where there is something else to go on with: a newcomer
 * without a network is not to wait for minutes.
 */
const REACH_MS = 4000;

/** Failures of a hub that are no reason to take another model: the user must act on them. */
const ACT_ON = new Set(["invalid", "disk-full", "storage"]);

/**
 * Finds the model that was asked for: the bundled demo, a folder, the cache, or a download. Where none was asked for and
 * the default one cannot be had, it is the demo, and that is said loudly.
 *
 * @param name undefined: the default model
 */
export async function locateModel(context: Context, name: string | undefined): Promise<LocatedModel> {
  if (name === DEMO) return locateDemo();
  const { terminal, signal } = context;
  const progress = new Progress(terminal, "Downloading");
  try {
    const wanted = name ?? DEFAULT_MODEL;
    const onProgress = downloadProgress(terminal, progress);
    const http = name === undefined ? { reachTimeout: REACH_MS } : {};
    const { dir, source } = await resolveModel(wanted, { signal, onProgress, http });
    return { dir, source, name: source === "folder" || source === "gguf" ? dir : wanted };
  } catch (error) {
    progress.stop();
    if (name !== undefined || !(error instanceof HubError) || ACT_ON.has(error.code)) throw error;
    terminal.warn(`the default model is not on this computer, and ${error.message}`);
    const demo = locateDemo();
    terminal.warn(
      "using the small bundled demo model instead: it runs the same code, but knows only what the demo needs. " +
        "For the real one, run `bun run download` with a network (about 1 GB), or give a model's folder with --model DIR.",
    );
    return demo;
  } finally {
    progress.stop();
  }
}

function locateDemo(): LocatedModel {
  if (existsSync(resolve(DEMO_DIR, "config.json"))) return { dir: DEMO_DIR, name: DEMO, source: DEMO };
  throw new CommandError(
    `the bundled demo model is missing from ${DEMO_DIR}; get the program again, or give --model DIR`,
  );
}

/** Shows a download as it goes. */
export function downloadProgress(terminal: Terminal, progress: Progress): (state: DownloadProgress) => void {
  let isWaiting = false;
  const started = new Map<string, number>();
  return ({ model, source, phase, bytes: done, totalBytes, files, totalFiles, retry }) => {
    if (phase === "listing") terminal.say(`Looking for ${model} at ${source}.`);
    if (phase === "waiting" && !isWaiting) {
      isWaiting = true;
      terminal.say(`Another process is downloading ${model}; waiting for it.`);
    }
    if (retry) {
      terminal.say(`${source}: ${retry.reason}; trying again in ${Math.ceil(retry.delay / 1000)} s`);
    }
    if (phase !== "downloading" || totalBytes === 0) return;
    // Bytes that an earlier run left do not count for the rate.
    const now = performance.now();
    if (!started.has(source)) {
      started.set(source, now);
      started.set(`${source} bytes`, done);
      terminal.say(`Downloading ${model} from ${source} (${bytes(totalBytes)}).`);
    }
    const rate = (done - started.get(`${source} bytes`)!) / Math.max(0.001, (now - started.get(source)!) / 1000);
    progress.update(
      done / totalBytes,
      `${bytes(done)} of ${bytes(totalBytes)}, ${bytes(rate)}/s, ${files} of ${totalFiles} files`,
    );
  };
}

/** A model in memory and the device that computes with it. */
export interface OpenModel extends LocatedModel {
  readonly qwen: Qwen;
  readonly device: Device;
  dispose(): Promise<void>;
}

/** A device's name that this version has. @throws CommandError for one that it has not */
export function supportedDevice(name: DeviceName): TensorDeviceName {
  const known = DEVICE_NAMES.find((one) => one === name);
  if (known !== undefined) return known;
  throw new CommandError(`there is no ${name} device in this version; choose one of ${DEVICE_NAMES.join(", ")}`);
}

/** Makes the device that the options ask for the default one. */
export async function openDevice(options: Pick<ModelOptions, "device" | "threads" | "precision">): Promise<Device> {
  const { device: name, threads, precision } = options;
  const device = await createDevice(supportedDevice(name), { threads, precision });
  setDefaultDevice(device);
  return device;
}

/** Loads a model onto the device that the options ask for. */
export async function openModel(
  context: Context,
  located: LocatedModel,
  options: Pick<ModelOptions, "device" | "threads" | "precision" | "quantize">,
): Promise<OpenModel> {
  const device = await openDevice(options);
  if (device.info.warning) context.terminal.warn(device.info.warning);
  const progress = new Progress(context.terminal, "Loading");
  try {
    const qwen = await Qwen.load(located.dir, {
      device,
      quantize: options.quantize,
      signal: context.signal,
      onProgress: (loaded, total) => progress.update(loaded / total, `${loaded} of ${total} tensors`),
    });
    return {
      ...located,
      qwen,
      device,
      async dispose() {
        qwen.dispose();
        await device.dispose();
      },
    };
  } catch (error) {
    await device.dispose();
    throw error;
  } finally {
    progress.stop();
  }
}
