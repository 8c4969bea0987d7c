/** A jump target or a constant's place; bound once, before or after its uses. */
export class Label {
  position = -1;
  readonly name: string;
  constructor(name: string) {
    this.name = name;
  }
}
