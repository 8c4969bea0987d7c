/** What all contenders of streams.ts are given, and how their times are told. */

const SENTENCES = [
  "The harbour opens at six in the morning, and the first boats bring herring and crab to the market hall.",
  "Our library lends books for four weeks; a longer loan needs a card from the front desk.",
  "Rain is expected in the west on Tuesday, while the east stays dry and a little warmer than usual.",
  "A train leaves for the coast every forty minutes, and bicycles travel free outside the rush hour.",
  "The bakery on the corner sells rye bread, almond cakes and, on Fridays, a soup of the season.",
  "Storage in the shared folder is limited to a hundred gigabytes for every member of the team.",
  "The museum shows paintings of the last century and a small collection of clocks and maps.",
  "Tickets may be returned until the evening before the concert, but not on the day itself.",
  "Engineers found that the bridge moves by three centimetres between winter and summer.",
  "In spring the gardens are watered twice a day, and volunteers are welcome at any hour.",
  "The school offers evening courses in Spanish, pottery and the repair of small machines.",
];

/** A text of about a hundred tokens, another for each stream from its first words on. */
export function promptOf(stream: number): string {
  const step = 1 + (stream % (SENTENCES.length - 1));
  const chosen = Array.from({ length: 5 }, (_, i) => SENTENCES[(stream + i * step) % SENTENCES.length]);
  return `${stream * 7 + 3} notes about the town. ${chosen.join(" ")} In short:`;
}

/** The value that the share `p` of all are at most. */
function percentile(values: readonly number[], p: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return Number((sorted[Math.max(0, Math.ceil(p * sorted.length) - 1)] ?? Number.NaN).toPrecision(4));
}

export const summary = (values: readonly number[]): { p50: number; p99: number } => ({
  p50: percentile(values, 0.5),
  p99: percentile(values, 0.99),
});

/** The share of tokens that two contenders' answers have in common before they part. */
export function sameBeginning(ours: readonly (readonly number[])[], theirs: readonly (readonly number[])[]): number {
  let [same, all] = [0, 0];
  ours.forEach((answer, i) => {
    const parting = answer.findIndex((token, at) => token !== theirs[i][at]);
    same += parting < 0 ? answer.length : parting;
    all += answer.length;
  });
  return Number((same / all).toPrecision(2));
}
