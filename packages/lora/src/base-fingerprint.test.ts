import { expect, test } from "bun:test";
import { Generator, noGrad, type Tensor } from "@tslm/tensor";
import { baseFingerprint, baseParameters, isSameBase } from "./base-fingerprint.ts";
import { applyLora } from "./lora.ts";
import { baseMismatch, promptFormat } from "./prompt.ts";
import { perturb, TinyModel } from "./testing.ts";

const SIZE = { size: 32 };

/** Puts other tensors in the place of the matrices of a model's linear layers. */
function converted(model: TinyModel, change: (t: Tensor) => Tensor): TinyModel {
  for (const [, module] of model.namedModules()) {
    const layer = module as { weight?: Tensor };
    if (layer.weight?.rank === 2) layer.weight = noGrad(() => change(layer.weight!)).keep();
  }
  return model;
}

test("the same weights have the same fingerprint, with an adapter attached or not", async () => {
  const model = new TinyModel(SIZE);
  const alone = await baseFingerprint(model);
  expect(await baseFingerprint(new TinyModel(SIZE))).toEqual(alone);
  const names = [...baseParameters(model).keys()];
  for (const use_dora of [false, true]) {
    const lora = applyLora(model, { target_modules: ["q_proj"], use_dora }, new Generator(1));
    await perturb(lora.parameters());
    expect([...baseParameters(model).keys()]).toEqual(names);
    expect(await baseFingerprint(model)).toEqual(alone);
    lora.remove();
  }
});

test("other weights have another, rounded ones pass", async () => {
  const trained = await baseFingerprint(new TinyModel(SIZE));
  expect(isSameBase(trained, trained)).toBe(true);
  expect(isSameBase(trained, await baseFingerprint(new TinyModel({ ...SIZE, seed: 2 })))).toBe(false);
  // As GGUF and --quantize round them: norms and biases stay.
  const rounded = await baseFingerprint(converted(new TinyModel(SIZE), (t) => t.to("q8_0")));
  expect(rounded.rows).toBeUndefined();
  expect(isSameBase(trained, rounded)).toBe(true);
  // An adapter that was merged into the model leaves norms and biases, and changes matrices.
  const merged = await baseFingerprint(converted(new TinyModel(SIZE), (t) => t.mul(1.01)));
  expect(merged.vectors).toBe(trained.vectors);
  expect(isSameBase(trained, merged)).toBe(false);
});

test("a mismatch is told, an unknown base is not one", async () => {
  const model = new TinyModel(SIZE);
  const prompt = promptFormat("the/base");
  expect(await baseMismatch(undefined, model)).toBeUndefined();
  expect(await baseMismatch(prompt, model)).toBeUndefined();
  const recorded = { ...prompt, base_fingerprint: await baseFingerprint(model) };
  expect(await baseMismatch(recorded, model)).toBeUndefined();
  expect(await baseMismatch(recorded, new TinyModel({ ...SIZE, seed: 2 }))).toContain("(the/base)");
});
