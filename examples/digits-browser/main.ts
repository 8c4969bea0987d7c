// The page: controls, the plot and the digits. The work is done in trainer.ts.
import { DEVICE_NAMES } from "@tslm/tensor";
import uPlot from "uplot";
import type { News, Order } from "./messages.ts";

const $ = <T extends HTMLElement>(id: string): T => document.getElementById(id) as T;
const device = $<HTMLSelectElement>("device");
const button = $<HTMLButtonElement>("start");
const status = $("status");
const progress = $<HTMLProgressElement>("progress");

/** What people call the devices. */
const LABELS: Record<string, string> = {
  auto: "fastest",
  gpu: "GPU (WebGPU, else WebGL 2)",
  cpu: "processor (WebAssembly)",
  reference: "plain loops (slow)",
};
for (const name of DEVICE_NAMES) {
  device.append(new Option(LABELS[name] ?? name, name));
}

/** A custom property of the page's style as a colour that a canvas takes. */
function color(name: string): string {
  const probe = document.createElement("i");
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const value = getComputedStyle(probe).color;
  probe.remove();
  return value;
}
const area = $("plot");
let losses: [number[], number[]] = [[], []];
const lines = { stroke: color("--line"), width: 1 };
const axis = { stroke: color("--soft"), grid: lines, ticks: lines };
const plot = new uPlot(
  {
    width: area.clientWidth,
    height: 260,
    scales: { x: { time: false }, y: { distr: 3 } },
    axes: [axis, axis],
    series: [{ label: "step" }, { label: "loss", stroke: color("--accent"), width: 1.5, points: { show: false } }],
    legend: { show: false },
  },
  losses,
  area,
);
new ResizeObserver(() => plot.setSize({ width: area.clientWidth, height: 260 })).observe(area);

const worker = new Worker("trainer.js", { type: "module" });
const order = (what: Order): void => worker.postMessage(what);
let isTraining = false;

$<HTMLFormElement>("controls").onsubmit = (event): void => {
  event.preventDefault();
  if (isTraining) {
    order({ kind: "stop" });
    return;
  }
  isTraining = true;
  button.textContent = "Stop";
  status.className = "";
  status.textContent = "Loading digits …";
  progress.hidden = false;
  losses = [[], []];
  plot.setData(losses);
  const rate = Number($<HTMLSelectElement>("rate").value);
  const epochs = Number($<HTMLInputElement>("epochs").value);
  order({ kind: "start", run: { device: device.value, rate, epochs } });
};

function ended(text: string): void {
  isTraining = false;
  button.textContent = "Train";
  status.textContent = text;
}

let where = "";
worker.onmessage = ({ data }: MessageEvent<News>): void => {
  switch (data.kind) {
    case "device":
      where = `${data.name} (${data.isa}${data.threads > 1 ? `, ${data.threads} threads` : ""})`;
      status.textContent = `Training on ${where} …`;
      break;
    case "step":
      losses[0].push(data.step);
      losses[1].push(data.loss);
      plot.setData(losses);
      progress.value = data.step / data.steps;
      $("loss").textContent = data.loss.toFixed(4);
      $("speed").textContent = Math.round(data.imagesPerSecond).toLocaleString("en");
      break;
    case "epoch":
      $("accuracy").textContent = `${(100 * data.accuracy).toFixed(1)} %`;
      $("samples").replaceChildren(...data.samples.map(sample));
      break;
    case "end":
      ended(data.stopped ? "Stopped." : `Done, on ${where}.`);
      break;
    case "failed":
      status.className = "failed";
      ended(data.message);
  }
};

/** An image and the digit that it was read as. */
function sample({ pixels, digit, read }: { pixels: Uint8Array; digit: number; read: number }): HTMLLIElement {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 28;
  const image = new ImageData(28, 28);
  for (const [i, shade] of pixels.entries()) image.data.set([shade, shade, shade, 255], 4 * i);
  canvas.getContext("2d")!.putImageData(image, 0, 0);
  const item = document.createElement("li");
  item.append(canvas, String(read));
  if (read !== digit) {
    item.className = "wrong";
    item.title = `It is a ${digit}.`;
  }
  return item;
}
