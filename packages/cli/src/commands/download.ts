import { Option } from "@commander-js/extra-typings";
import { downloadModel, HUB_SOURCES } from "@tslm/qwen";
import { downloadProgress } from "../model.ts";
import { baseCommand, DEFAULT_MODEL, notEmpty, option } from "../options.ts";
import { Progress } from "../progress.ts";
import type { Context } from "../run.ts";

/** `download`: brings a model onto this computer. */
export function download(context: Context) {
  return baseCommand(
    context,
    "download",
    "Download a model; a second run finds it and touches no network. For a private or gated model, set MODELSCOPE_API_TOKEN or HF_TOKEN.",
    [
      ["bun run download", `${DEFAULT_MODEL}, about 1 GB`],
      ["bun run download Qwen/Qwen2.5-Coder-0.5B-Instruct", "another model"],
      ["bun run download --source huggingface", "from Hugging Face alone"],
    ],
  )
    .argument("[model]", "the model's name", DEFAULT_MODEL)
    .addOption(
      new Option("--source <name>", "where from (default: modelscope, and if that fails huggingface)").choices(
        HUB_SOURCES,
      ),
    )
    .addOption(option("--endpoint <url>", "another server that speaks the source's protocol", notEmpty))
    .addOption(option("--cache <dir>", "folder to keep it in (default: the one of the source's own tools)", notEmpty))
    .addOption(option("--revision <r>", "branch, tag or commit (default: the newest)", notEmpty))
    .action(async (model, { source, endpoint, cache, revision, json }) => {
      const { terminal, signal } = context;
      context.kept = "What has arrived is kept; run it again to go on.";
      const progress = new Progress(terminal, "Downloading");
      const onProgress = downloadProgress(terminal, progress);
      const found = await downloadModel({ model, source, endpoint, cache, revision, signal, onProgress }).finally(() =>
        progress.stop(),
      );
      terminal.say(found.downloaded ? `${model} is complete.` : `${model} is there already.`);
      if (json) terminal.json({ model, dir: found.dir, source: found.source, downloaded: found.downloaded });
      else terminal.print(found.dir);
    });
}
