/**
 * Makes the site of the tensor package, dist/docs/, of its code and of docs/tensor/: bun run docs. A broken link, an export
 * without documentation or any other warning is an error.
 */
import { join } from "node:path";
import { Application } from "typedoc";

const root = join(import.meta.dir, "..", "..");
const tensor = join(root, "packages", "tensor");
const guides = ["getting-started", "tensors", "autograd", "devices", "memory", "custom-ops", "from-pytorch"];

const app = await Application.bootstrap({
  name: "@tslm/tensor",
  entryPoints: [join(tensor, "src", "index.ts")],
  tsconfig: join(import.meta.dir, "tsconfig.json"),
  readme: join(tensor, "README.md"),
  projectDocuments: guides.map((name) => join(root, "docs", "tensor", `${name}.md`)),
  out: process.argv[2] ?? join(root, "dist", "docs"),
  categorizeByGroup: false,
  excludePrivate: true,
  excludeInternal: true,
  disableGit: true,
  disableSources: true,
  validation: { notExported: true, invalidLink: true, invalidPath: true, notDocumented: true, unusedMergeModuleWith: true },
  requiredToBeDocumented: ["Class", "Enum", "Function", "Interface", "TypeAlias", "Variable"],
  treatWarningsAsErrors: true,
  treatValidationWarningsAsErrors: true,
  skipErrorChecking: false,
});
const project = await app.convert();
if (!project) process.exit(1);
app.validate(project);
if (app.logger.hasErrors() || app.logger.hasWarnings()) process.exit(1);
await app.generateOutputs(project);
process.exit(app.logger.hasErrors() || app.logger.hasWarnings() ? 1 : 0);
