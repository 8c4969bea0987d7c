/** 10,000 of the MNIST digits. */
declare module "mnist" {
  interface Digit {
    readonly length: number;
    /** An image: 28 × 28 numbers from 0 to 1, row by row. */
    get(index: number): number[];
  }
  const digits: readonly Digit[];
  export default digits;
}
