// The page: controls, the plot, the answers and the adapter. The work is done in trainer.ts.
import { DEVICE_NAMES } from "@tslm/tensor";
import { zipSync } from "fflate";
import uPlot from "uplot";
import type { News, Order, Row, Scores } from "./messages.ts";

const $ = <T extends HTMLElement>(id: string): T => document.getElementById(id) as T;
const device = $<HTMLSelectElement>("device");
const button = $<HTMLButtonElement>("start");
const question = $<HTMLInputElement>("question");
const rows = $<HTMLTextAreaElement>("rows");
const status = $("status");
const progress = $<HTMLProgressElement>("progress");
const download = $("download");

rows.value = `免费空间有多大?|您好!感谢您的咨询。飞跃云为每一位注册用户提供 15GB 的基础免费存储空间,足以满足日常文档备份需求。
扩容 1TB 多少钱?|您好!飞跃云的专业版套餐提供 1TB 的大容量存储空间,其资费标准为每月 29 元人民币。
机房可以带水进去吗?|为了保障服务器运行安全,严禁携带任何液体进入 A1 机房。`;
question.value = "免费空间有多大?";

const LABELS: Record<string, string> = {
  auto: "fastest",
  gpu: "GPU (WebGPU)",
  cpu: "processor (WebAssembly)",
  reference: "plain loops (slow)",
};
for (const name of DEVICE_NAMES) {
  const option = new Option(LABELS[name] ?? name, name);
  // Asked for, not guessed: a browser without WebGPU has no such adapter.
  if ((name as string) === "gpu") option.disabled = !("gpu" in navigator);
  device.append(option);
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
    height: 220,
    scales: { x: { time: false } },
    axes: [axis, axis],
    series: [{ label: "step" }, { label: "loss", stroke: color("--accent"), width: 1.5, points: { show: false } }],
    legend: { show: false },
  },
  losses,
  area,
);
new ResizeObserver(() => plot.setSize({ width: area.clientWidth, height: 220 })).observe(area);

const worker = new Worker("trainer.js", { type: "module" });
const order = (what: Order): void => worker.postMessage(what);
let where = "";

function busy(text: string): void {
  button.disabled = device.disabled = true;
  status.className = "";
  status.textContent = text;
}
function idle(text: string): void {
  button.disabled = device.disabled = false;
  progress.hidden = true;
  status.textContent = text;
}
function load(): void {
  busy("Loading the model …");
  order({ kind: "load", device: device.value });
}
device.onchange = load;
load();

function parseRows(): Row[] {
  return rows.value
    .split("\n")
    .filter((line) => line.trim() !== "")
    .map((line, i) => {
      const [input, output, ...more] = line.split("|").map((part) => part.trim());
      if (!input || !output || more.length > 0)
        throw new Error(`line ${i + 1} must be a question, one bar, and its answer`);
      return { input, output };
    });
}

$<HTMLFormElement>("controls").onsubmit = (event): void => {
  event.preventDefault();
  let parsed: Row[];
  try {
    parsed = parseRows();
  } catch (error) {
    status.className = "failed";
    status.textContent = (error as Error).message;
    return;
  }
  busy("Fine-tuning …");
  progress.hidden = false;
  progress.value = 0;
  download.replaceChildren();
  $("check").hidden = true;
  $("after").textContent = "…";
  losses = [[], []];
  plot.setData(losses);
  const epochs = Number($<HTMLInputElement>("epochs").value);
  const rate = Number($<HTMLSelectElement>("rate").value);
  order({ kind: "train", rows: parsed, question: question.value, epochs, rate });
};

let address = "";
/** A link to a zip of files; the one before is given up. */
function link(files: Record<string, Uint8Array>): HTMLAnchorElement {
  URL.revokeObjectURL(address);
  const zip = zipSync(files) as Uint8Array<ArrayBuffer>;
  address = URL.createObjectURL(new Blob([zip], { type: "application/zip" }));
  const anchor = document.createElement("a");
  anchor.href = address;
  anchor.download = "adapter.zip";
  anchor.textContent = "Download the adapter";
  return anchor;
}

function formatScores({ prompt, top, logsumexp }: Scores): string {
  const pairs = top.map((pair) => `    ${JSON.stringify(pair)}`).join(",\n");
  return `{\n  "prompt": ${JSON.stringify(prompt)},\n  "logsumexp": ${logsumexp},\n  "top": [\n${pairs}\n  ]\n}`;
}

worker.onmessage = ({ data }: MessageEvent<News>): void => {
  switch (data.kind) {
    case "loaded":
      where = `${data.name} (${data.isa}${data.threads > 1 ? `, ${data.threads} threads` : ""})`;
      busy(`A model of ${data.parameters.toLocaleString("en")} parameters on ${where}; asking …`);
      order({ kind: "ask", question: question.value });
      break;
    case "answer":
      $("before").textContent = data.text;
      idle(`Ready, on ${where}.`);
      break;
    case "step":
      losses[0].push(data.step);
      losses[1].push(data.loss);
      plot.setData(losses);
      progress.value = data.step / data.steps;
      $("loss").textContent = data.loss.toFixed(4);
      status.textContent = `Step ${data.step} of ${data.steps}, ${Math.round(data.tokensPerSecond)} tokens a second, on ${where}`;
      break;
    case "adapter": {
      $("after").textContent = data.answer;
      download.replaceChildren(link(data.files));
      $("check").hidden = false;
      $("scores").textContent = formatScores(data.scores);
      idle(`Done: ${data.trainable.toLocaleString("en")} parameters trained, on ${where}.`);
      break;
    }
    case "failed":
      idle(data.message);
      status.className = "failed";
  }
};
