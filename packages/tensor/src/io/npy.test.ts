// Against NumPy's own files (testdata/npy.json, written by testdata/make_npy.py), and against damaged ones.
import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import {
  createDevice,
  DTypeError,
  FormatError,
  parseNpy,
  parseNpz,
  readNpy,
  readNpz,
  serializeNpy,
  serializeNpz,
  type Tensor,
  TensorError,
  tensor,
  writeNpy,
  writeNpz,
  zeros,
} from "../index.ts";
import fixture from "./testdata/npy.json" with { type: "json" };

const bytesOf = (text: string): Uint8Array => new Uint8Array(Buffer.from(text, "base64"));
const number = (text: string): number => Number(text.replace("inf", "Infinity"));
const folder = mkdtempSync(join(tmpdir(), "npy-"));
afterAll(() => rmSync(folder, { recursive: true }));

const A = [
  [1.5, 2],
  [3, -4],
];
const B = [0, 1, 2];

describe(".npy", () => {
  for (const [name, { file, shape, values }] of Object.entries(fixture.files)) {
    test(`reads NumPy's ${name}`, async () => {
      const t = parseNpy(bytesOf(file));
      expect(t.shape).toEqual(shape);
      expect([...(await t.data())]).toEqual(values.map(number));
    });
  }

  test("types: f16 and f32 are f32, f64 stays where the device has it, whole numbers are i32", async () => {
    const types = Object.entries(fixture.files).map(([name, { file }]) => [name, parseNpy(bytesOf(file)).dtype]);
    const want = { f2: "f32", f4: "f32", f8: "f64", b1: "i32", i8: "i32", u1: "i32" };
    for (const [kind, dtype] of Object.entries(want)) {
      expect(types.find(([name]) => name.endsWith(kind))?.[1]).toBe(dtype);
    }
    const device = await createDevice("cpu", { threads: 1 });
    expect(parseNpy(bytesOf(fixture.files["<f8"].file), { device }).dtype).toBe("f32");
    await device.dispose();
  });

  test("writes what NumPy writes, byte for byte", async () => {
    for (const name of ["<f4", "<f8", "<i4", "a number", "a row", "many dimensions", "nothing", "special"] as const) {
      const bytes = bytesOf(fixture.files[name].file);
      expect(Buffer.from(await serializeNpy(parseNpy(bytes))).toString("base64")).toBe(fixture.files[name].file);
    }
  });

  test("views are written in order, bf16 as f32, blocks not at all", async () => {
    const x = tensor(A);
    expect(await parseNpy(await serializeNpy(x.T)).tolist()).toEqual(await x.T.tolist());
    expect(await parseNpy(await serializeNpy(x.to("bf16"))).tolist()).toEqual(A);
    await expect(serializeNpy(zeros([1, 32]).to("q8_0"))).rejects.toThrow(
      "[npy] q8_0 blocks have no name there; use to('f32')",
    );
  });

  test("reads the second version of the format", async () => {
    expect(await parseNpy(bytesOf(fixture.version2)).tolist()).toEqual(A);
  });

  test("files", async () => {
    const path = join(folder, "a.npy");
    await writeNpy(path, tensor(A));
    expect(await (await readNpy(path)).tolist()).toEqual(A);
    await expect(readNpy(join(folder, "none.npy"))).rejects.toThrow("there is no such file or folder");
  });
});

describe(".npz", () => {
  const check = async (tensors: ReadonlyMap<string, Tensor>): Promise<void> => {
    expect([...tensors.keys()]).toEqual(["a", "b"]);
    expect(await tensors.get("a")!.tolist()).toEqual(A);
    expect(await tensors.get("b")!.tolist()).toEqual(B);
  };
  const both = (): Map<string, Tensor> =>
    new Map([
      ["a", tensor(A)],
      ["b", tensor(B, { dtype: "i32" })],
    ]);

  test("reads NumPy's, packed and not", async () => {
    await check(await parseNpz(bytesOf(fixture.npz)));
    await check(await parseNpz(bytesOf(fixture.compressed)));
  });

  test("reads its own, packed and not, and tells how far it is", async () => {
    const told: string[] = [];
    const plain = await serializeNpz(both(), { progress: (done, total) => told.push(`${done}/${total}`) });
    expect(told).toEqual(["0/2", "1/2", "2/2"]);
    await check(await parseNpz(plain));
    const packed = await serializeNpz(new Map([["zeros", zeros([1000])]]), { compress: true });
    expect(packed.length).toBeLessThan(400);
    expect(await (await parseNpz(packed)).get("zeros")!.sum().item()).toBe(0);
    const path = join(folder, "both.npz");
    await writeNpz(path, both(), { compress: true });
    await check(await readNpz(path));
  });

  test("NumPy reads ours", async () => {
    const python = Bun.which("python3");
    if (!python || Bun.spawnSync([python, "-c", "import numpy"]).exitCode !== 0) {
      console.log("python3 with numpy is not installed: NumPy was not asked to read our files");
      return;
    }
    await writeNpz(join(folder, "plain.npz"), both());
    await writeNpz(join(folder, "packed.npz"), both(), { compress: true });
    const program = "import numpy, sys; print([numpy.load(p)['a'].tolist() for p in sys.argv[1:]])";
    const { stdout } = Bun.spawnSync([python, "-c", program, "plain.npz", "packed.npz"], { cwd: folder });
    expect(`${stdout}`.trim()).toBe("[[[1.5, 2.0], [3.0, -4.0]], [[1.5, 2.0], [3.0, -4.0]]]");
  });
});

/** A file with another header. */
function withHeader(text: string, data = 0): Uint8Array {
  const bytes = new Uint8Array(10 + text.length + data);
  bytes.set(bytesOf(fixture.files["a row"].file).subarray(0, 8));
  bytes.set([text.length & 255, text.length >> 8], 8);
  bytes.set(new TextEncoder().encode(text), 10);
  return bytes;
}
const entries = (descr: string, order: string, shape: string): string =>
  `{'descr': ${descr}, 'fortran_order': ${order}, 'shape': ${shape}, }\n`;

describe("what is no such file is refused with the byte at which it is none", () => {
  const row = bytesOf(fixture.files["a row"].file);
  const patched = (at: number, value: number): Uint8Array => row.with(at, value);
  const cases: [name: string, bytes: Uint8Array, message: string][] = [
    ["no file at all", new Uint8Array(0), "at byte 0: not an .npy file: it does not begin with \\x93NUMPY"],
    ["another version", patched(6, 9), "at byte 6: version 9.0 of the format is unknown"],
    ["a header cut off", row.slice(0, 40), "at byte 8: a header of 118 bytes, but the file ends; was it cut off?"],
    ["data cut off", row.slice(0, -1), "at byte 128: 7 bytes of data, not 8 for [2] of f4"],
    ["data too much", withHeader(entries("'<f4'", "False", "(1,)"), 5), "bytes of data, not 4 for [1] of f4"],
    ["no dictionary", withHeader("[1, 2]"), "at byte 10: the header is not a Python dictionary"],
    ["code", withHeader(entries("__import__('os')", "False", "()")), "at byte 11: the header has an entry that cannot"],
    ["an entry twice", withHeader("{'shape': (), 'shape': ()}"), "at byte 23: the header names shape twice"],
    ["an entry less", withHeader("{'descr': '<f4', 'shape': ()}"), "at byte 10: the header has no fortran_order"],
    ["a strange order", withHeader(entries("'<f4'", "(2)", "()")), "fortran_order is (2)"],
    ["a negative size", withHeader(entries("'<f4'", "False", "(-1,)")), "(-1,) is not a shape"],
    ["a number as shape", withHeader(entries("'<f4'", "False", "(3)")), "(3) is not a shape"],
    [
      "a huge shape",
      withHeader(entries("'<f4'", "False", "(9007199254740991, 9007199254740991)")),
      "a shape of (9007199254740991, 9007199254740991) is too large",
    ],
    ["large whole numbers", withHeader(entries("'<u4'", "False", "(1,)"), 4).fill(255, -4), "4294967295 is no 32-bit"],
  ];
  for (const [name, bytes, message] of cases) {
    test(name, () => {
      expect(() => parseNpy(bytes)).toThrow(FormatError);
      expect(() => parseNpy(bytes)).toThrow(message);
    });
  }
  test("complex numbers and records", () => {
    expect(() => parseNpy(bytesOf(fixture.complex))).toThrow(DTypeError);
    expect(() => parseNpy(bytesOf(fixture.complex))).toThrow("elements of type '<c16' cannot be computed with");
    expect(() => parseNpy(bytesOf(fixture.structured))).toThrow("elements of type [('x', '<f4'), ('y', '<i4')] cannot");
  });

  const npz = bytesOf(fixture.npz);
  const packed = bytesOf(fixture.compressed);
  /** Where the directory begins. */
  const directory = (bytes: Uint8Array): number => new DataView(bytes.buffer).getUint32(bytes.length - 6, true);
  /** Where the directory's second header stands. */
  const secondEntry = (bytes: Uint8Array): number => {
    const first = directory(bytes);
    const view = new DataView(bytes.buffer);
    return first + 46 + view.getUint16(first + 28, true) + view.getUint16(first + 30, true);
  };
  /** An entry of which both sizes are one more. */
  const longer = (bytes: Uint8Array, at: number): Uint8Array =>
    bytes.with(at + 20, bytes[at + 20] + 1).with(at + 24, bytes[at + 24] + 1);
  const archives: [name: string, bytes: Uint8Array, message: string][] = [
    ["an archive cut off", npz.slice(0, -1), "not a zip archive: its end record is missing; was it cut off?"],
    ["a damaged array", npz.with(directory(npz) - 1, 7), "the checksum of b.npy is wrong; the archive is damaged"],
    ["a damaged packed array", packed.with(directory(packed) - 9, 0xff), "; the archive is damaged"],
    ["an encrypted one", npz.with(directory(npz) + 8, 1), "a.npy is encrypted"],
    ["one packed otherwise", npz.with(directory(npz) + 10, 12), "a.npy is packed by unknown means (12)"],
    ["one that claims more", packed.with(directory(packed) + 26, 0xff), "a.npy cannot unpack to"],
    ["one that claims less", packed.with(directory(packed) + 24, 5), "unpacks to more than"],
    ["sizes that differ", npz.with(directory(npz) + 24, 5), "a.npy is not packed, but its sizes differ"],
    ["one that unpacks to less", packed.with(directory(packed) + 24, packed[directory(packed) + 24] + 1), "bytes, not"],
    ["one that reaches into the directory", longer(npz, secondEntry(npz)), "b.npy reaches into the directory"],
    ["a name twice", npz.with(secondEntry(npz) + 46, "a".charCodeAt(0)), "a.npy stands there twice"],
    ["a place that is none", npz.with(directory(npz) + 42, 9), "the header of a.npy is missing"],
  ];
  for (const [name, bytes, message] of archives) {
    test(name, async () => {
      await expect(parseNpz(bytes)).rejects.toThrow(FormatError);
      await expect(parseNpz(bytes)).rejects.toThrow(message);
    });
  }

  test("two files in one place", async () => {
    const twins = await serializeNpz(new Map(["a", "b"].map((name) => [name, tensor(A)])));
    const place = secondEntry(twins) + 42;
    twins.fill(0, place, place + 4);
    await expect(parseNpz(twins)).rejects.toThrow("b.npy overlaps the file before it");
  });

  test("an archive of other things", async () => {
    const renamed = Buffer.from(npz.map((byte, i) => (npz[i + 1] === 0x2e && byte === 0x61 ? 0x61 : byte)));
    const text = renamed.toString("latin1").replaceAll("a.npy", "a.txt");
    await expect(parseNpz(new Uint8Array(Buffer.from(text, "latin1")))).rejects.toThrow("[npz] bytes: a.txt is not an");
  });

  test("any damage is refused in words, or does no harm", async () => {
    const damages = fc.array(fc.tuple(fc.nat(), fc.nat(255)), { minLength: 1, maxLength: 3 });
    await fc.assert(
      fc.asyncProperty(fc.constantFrom(npz, packed, row), damages, fc.nat(300), async (whole, changes, cut) => {
        const bytes = whole.slice(0, whole.length - (cut < 150 ? cut : 0));
        for (const [at, value] of changes) bytes[at % bytes.length] = value;
        try {
          await parseNpz(bytes);
        } catch (error) {
          expect(error).toBeInstanceOf(TensorError);
        }
        try {
          parseNpy(bytes);
        } catch (error) {
          expect(error).toBeInstanceOf(TensorError);
        }
      }),
      { numRuns: 1500, seed: 7 },
    );
  });
});
