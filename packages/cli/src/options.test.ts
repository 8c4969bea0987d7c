import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { checked, fraction, integer, positive, repetition } from "./options.ts";

describe("numbers of the command line", () => {
  const int = checked(integer(1, 100));
  test("whole numbers", () => {
    expect(int("1")).toBe(1);
    expect(int("+042")).toBe(42);
    for (const bad of ["0", "101", "1.0", "1e1", "", " ", "0x10", "NaN", "-1", "１", "9".repeat(400)]) {
      expect(() => int(bad)).toThrow("It must be a whole number from 1 to 100.");
    }
  });
  test("real numbers", () => {
    expect(checked(positive)("2e-4")).toBe(2e-4);
    expect(checked(fraction)(".5")).toBe(0.5);
    for (const bad of ["0", "-1", "NaN", "Infinity", "1e999", "1,5", "", "1e-400"]) {
      expect(() => checked(positive)(bad)).toThrow("It must be a number above 0.");
    }
    expect(() => checked(fraction)("1")).toThrow();
  });
  test("every printed number is read as itself", () => {
    fc.assert(
      fc.property(fc.double({ min: 1e-300, max: 1e300, noNaN: true }), (x) => checked(positive)(String(x)) === x),
    );
  });
});

test("TEXT=N: the number stands after the last equals sign", () => {
  const parse = checked(repetition);
  expect(parse("15GB=4")).toEqual({ text: "15GB", times: 4 });
  expect(parse("a=b=2")).toEqual({ text: "a=b", times: 2 });
  for (const bad of ["15GB", "=4", "x=", "x=0", "x=1.5", "x=1001"])
    expect(() => parse(bad)).toThrow("It must be TEXT=N");
});
