import type { Matrix } from "../linalg/matrix.ts";
import { firstOfQr } from "../linalg/qr.ts";
import type { Factors } from "./from-base.ts";

/** OLoRA (Büyükakyüz, 2024): with the weight W = Q·R, B is the first r columns of Q and A the first r rows of R. */
export function olora(weight: Matrix, rank: number): Factors {
  const { q, r } = firstOfQr(weight, rank);
  return { a: r, b: q };
}
