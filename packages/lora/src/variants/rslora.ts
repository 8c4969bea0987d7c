/** The factor on B·A: α/r, or α/√r, which lets the rank grow without the change growing smaller (Kalajdzievski, 2023). */
export function scalingOf(rank: number, alpha: number, { use_rslora }: { use_rslora: boolean }): number {
  return alpha / (use_rslora ? Math.sqrt(rank) : rank);
}
