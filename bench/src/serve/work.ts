/** What all contenders are asked. */

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

/** A question of about a hundred tokens, another for each stream from its first words on. */
export function questionOf(stream: number): string {
  const step = 1 + (stream % (SENTENCES.length - 1));
  const chosen = Array.from({ length: 5 }, (_, i) => SENTENCES[(stream + i * step) % SENTENCES.length]);
  return `${stream * 7 + 3} notes about the town. ${chosen.join(" ")} Write a story in which all this happens.`;
}

/** One of about 400 tokens, for small vocabularies too. */
export const LONG_QUESTION = `Which of these is out of line: ${Array.from({ length: 90 }, (_, i) => 10 + ((i * 37) % 90)).join(", ")}?`;
