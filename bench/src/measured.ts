import { type Device, linear, noGrad, scope, type Tensor } from "@tslm/tensor";

/** What was measured, and what belongs to it. */
export interface Measured {
  readonly value: number;
  readonly [more: string]: number | string;
}

/** Seconds that some work takes, its results arrived. */
export async function seconds(device: Device, work: () => unknown): Promise<number> {
  const started = performance.now();
  await work();
  await device.synchronize();
  return (performance.now() - started) / 1000;
}

/** The first row of the product against the product of sums in another order. */
export async function checkProduct(x: Tensor, weight: Tensor): Promise<void> {
  const made = noGrad(() => scope(() => linear(x, weight)));
  const [product, row, weights] = [await made.data(), await x.data(), await weight.data()];
  made.dispose();
  const inner = x.shape[1];
  for (let column = 0; column < weight.shape[0]; column += 97) {
    let sum = 0;
    for (let i = inner - 1; i >= 0; i--) sum += row[i] * weights[column * inner + i];
    if (!(Math.abs(sum - product[column]) < 1e-2)) throw new Error(`the product is wrong in column ${column}`);
  }
}
