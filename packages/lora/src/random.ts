import { Generator, type RandomKey } from "@tslm/tensor";

/** What random numbers of one seed are used for besides initialisation; each use has numbers of its own. */
const USES = { dropout: 1, shuffle: 2, split: 3, neftune: 4 } as const;

/**
 * The Philox key of one use of a seed. A seed has 53 bits, so the key's upper bits tell the uses apart; initialisation
 * (`Generator`) has them at 0.
 */
export function keySeed(seed: number, use: keyof typeof USES): RandomKey["seed"] {
  const [low, high] = new Generator(seed).seed;
  return [low, (high | (USES[use] << 24)) >>> 0];
}
