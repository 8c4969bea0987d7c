/**
 * Makes the site of the tensor package, dist/docs/, of its code and of docs/tensor/: bun run docs [FOLDER]. A broken link, an
 * export without documentation or any other warning is an error.
 */
import { join } from "node:path";
import { Application, Comment, type DeclarationReflection, type ProjectReflection, ReflectionKind } from "typedoc";

const root = join(import.meta.dir, "..", "..");
const tensor = join(root, "packages", "tensor");
const guides = ["getting-started", "tensors", "autograd", "devices", "memory", "custom-ops", "from-pytorch"];

/** A method of Tensor without words of its own has those of the function of its name: `x.add(y)` is `add(x, y)`. */
function describeMethods(project: ProjectReflection): void {
  const functions = new Map(
    project.getReflectionsByKind(ReflectionKind.Function).map((f) => [f.name, f as DeclarationReflection]),
  );
  for (const method of project.getReflectionsByKind(ReflectionKind.Method) as DeclarationReflection[]) {
    const words = functions.get(method.name)?.signatures?.[0].comment;
    if (method.parent?.name !== "Tensor" || !words) continue;
    for (const signature of method.signatures ?? [])
      signature.comment ??= new Comment(Comment.cloneDisplayParts(words.summary));
  }
}

/** Exported functions without documentation. */
function undescribed(project: ProjectReflection): string[] {
  const functions = project.getReflectionsByKind(ReflectionKind.Function) as DeclarationReflection[];
  return functions.filter((f) => !f.signatures?.some(({ comment }) => comment?.summary.length)).map((f) => f.name);
}

const app = await Application.bootstrap({
  name: "@tslm/tensor",
  entryPoints: ["index.ts", "measure.ts"].map((name) => join(tensor, "src", name)),
  tsconfig: join(import.meta.dir, "tsconfig.json"),
  readme: join(tensor, "README.md"),
  projectDocuments: guides.map((name) => join(root, "docs", "tensor", `${name}.md`)),
  // Guides stand in the order of reading.
  sort: ["kind", "alphabetical-ignoring-documents"],
  excludePrivate: true,
  excludeInternal: true,
  disableGit: true,
  disableSources: true,
  validation: { notExported: false, invalidLink: true, invalidPath: true, notDocumented: true },
  // Functions are looked at below: TypeDoc would count methods with them.
  requiredToBeDocumented: ["Class", "Enum", "Interface", "TypeAlias", "Variable"],
});
const project = await app.convert();
if (!project) process.exit(1);
describeMethods(project);
for (const name of undescribed(project)) app.logger.warn(`${name} does not have any documentation` as never);
app.validate(project);
if (!app.logger.hasErrors() && !app.logger.hasWarnings()) {
  await app.generateDocs(project, process.argv[2] ?? join(root, "dist", "docs"));
}
process.exit(app.logger.hasErrors() || app.logger.hasWarnings() ? 1 : 0);
