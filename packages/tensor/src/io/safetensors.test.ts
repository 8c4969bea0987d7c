import { afterAll, describe, expect, test } from "bun:test";
import {
  closeSync,
  existsSync,
  ftruncateSync,
  lstatSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import {
  DTypeError,
  FormatError,
  memory,
  openSafetensors,
  parseSafetensors,
  reference,
  SafetensorsFile,
  serializeSafetensors,
  Tensor,
  TensorError,
  tensor,
  writeSafetensors,
} from "../index.ts";
import { files as nodeFiles } from "./files.node.ts";

/*
Made by safetensors 0.8.0 with PyTorch 2.13.0:
  from safetensors.torch import save
  save({"名前": torch.tensor([1.0, -2.0, float("inf")], dtype=torch.bfloat16),
        "b.weight": torch.tensor([[1.5, 2.5], [3.5, 4.5]]), "a.weight": torch.tensor([0.1, 0.2, 0.3]),
        "wide": torch.tensor([0.1], dtype=torch.float64), "index": torch.tensor([[1], [-2]], dtype=torch.int32),
        "empty": torch.zeros((0, 3)), "scalar": torch.tensor(7.0)}, metadata={"format": "pt"})
  save({"half": torch.tensor([1.0, -0.5, 65504.0, 6e-8, float("inf"), float("nan")], dtype=torch.float16),
        "long": torch.tensor([1, 2]), "flag": torch.tensor([True, False])})
*/
const WRITTEN_BY_LIBRARY = Uint8Array.fromBase64(
  "yAEAAAAAAAB7Il9fbWV0YWRhdGFfXyI6eyJmb3JtYXQiOiJwdCJ9LCJ3aWRlIjp7ImR0eXBlIjoiRjY0Iiwic2hhcGUiOlsxXSwiZGF0YV9vZmZzZXRz" +
    "IjpbMCw4XX0sImEud2VpZ2h0Ijp7ImR0eXBlIjoiRjMyIiwic2hhcGUiOlszXSwiZGF0YV9vZmZzZXRzIjpbOCwyMF19LCJiLndlaWdodCI6eyJkdHlw" +
    "ZSI6IkYzMiIsInNoYXBlIjpbMiwyXSwiZGF0YV9vZmZzZXRzIjpbMjAsMzZdfSwiZW1wdHkiOnsiZHR5cGUiOiJGMzIiLCJzaGFwZSI6WzAsM10sImRh" +
    "dGFfb2Zmc2V0cyI6WzM2LDM2XX0sInNjYWxhciI6eyJkdHlwZSI6IkYzMiIsInNoYXBlIjpbXSwiZGF0YV9vZmZzZXRzIjpbMzYsNDBdfSwiaW5kZXgi" +
    "OnsiZHR5cGUiOiJJMzIiLCJzaGFwZSI6WzIsMV0sImRhdGFfb2Zmc2V0cyI6WzQwLDQ4XX0sIuWQjeWJjSI6eyJkdHlwZSI6IkJGMTYiLCJzaGFwZSI6" +
    "WzNdLCJkYXRhX29mZnNldHMiOls0OCw1NF19fSCamZmZmZm5P83MzD3NzEw+mpmZPgAAwD8AACBAAABgQAAAkEAAAOBAAQAAAP7///+APwDAgH8=",
);
const OTHER_TYPES = Uint8Array.fromBase64(
  "sAAAAAAAAAB7ImxvbmciOnsiZHR5cGUiOiJJNjQiLCJzaGFwZSI6WzJdLCJkYXRhX29mZnNldHMiOlswLDE2XX0sImhhbGYiOnsiZHR5cGUiOiJGMTYi" +
    "LCJzaGFwZSI6WzZdLCJkYXRhX29mZnNldHMiOlsxNiwyOF19LCJmbGFnIjp7ImR0eXBlIjoiQk9PTCIsInNoYXBlIjpbMl0sImRhdGFfb2Zmc2V0cyI6" +
    "WzI4LDMwXX19IAEAAAAAAAAAAgAAAAAAAAAAPAC4/3sBAAB8AH4BAA==",
);

const folder = mkdtempSync(join(tmpdir(), "safetensors-"));
afterAll(() => rmSync(folder, { recursive: true }));

/** A file of this header (text, or an object made into JSON) and this many bytes of data. */
function fileOf(header: unknown, dataBytes: number): Uint8Array {
  const json = new TextEncoder().encode(typeof header === "string" ? header : JSON.stringify(header));
  const bytes = new Uint8Array(8 + json.length + dataBytes);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(json.length), true);
  bytes.set(json, 8);
  return bytes;
}

/** Bun's mapped reader, Node's reader and the one for bytes, over the same content. */
async function everyReader(bytes: Uint8Array): Promise<SafetensorsFile[]> {
  const path = join(folder, `${crypto.randomUUID()}.safetensors`);
  writeFileSync(path, bytes);
  return [await openSafetensors(path), new SafetensorsFile(path, nodeFiles!.open(path)), parseSafetensors(bytes)];
}

describe("reading", () => {
  test("values, shapes and metadata are those that the library wrote, mapped, read or from bytes", async () => {
    for (const file of await everyReader(WRITTEN_BY_LIBRARY)) {
      expect(file.names()).toEqual(["wide", "a.weight", "b.weight", "empty", "scalar", "index", "名前"]);
      expect({ ...file.metadata }).toEqual({ format: "pt" });
      expect(file.info("b.weight")).toMatchObject({ dtype: "F32", shape: [2, 2], byteLength: 16 });
      const values: Record<string, unknown> = {};
      for (const [name, t] of file.tensors({ device: reference })) {
        values[name] = [t.dtype, t.shape, [...(await t.data())]];
        t.dispose();
      }
      expect(values).toEqual({
        wide: ["f64", [1], [0.1]],
        "a.weight": ["f32", [3], [0.1, 0.2, 0.3].map(Math.fround)],
        "b.weight": ["f32", [2, 2], [1.5, 2.5, 3.5, 4.5]],
        empty: ["f32", [0, 3], []],
        scalar: ["f32", [], [7]],
        index: ["i32", [2, 1], [1, -2]],
        名前: ["bf16", [3], [1, -2, Infinity]],
      });
      file.close();
    }
  });

  test("a tensor outlives the file's close; afterwards the file gives no new one", async () => {
    const [mapped, read] = await everyReader(WRITTEN_BY_LIBRARY);
    for (const file of [mapped, read]) {
      const t = file.tensor("b.weight");
      file.close();
      file.close();
      expect([...(await t.data())]).toEqual([1.5, 2.5, 3.5, 4.5]);
      t.dispose();
      expect(() => file.tensor("b.weight")).toThrow(/has been closed/);
    }
  });

  test("mapping copies nothing and counts as mapped memory", async () => {
    const [mapped] = await everyReader(WRITTEN_BY_LIBRARY);
    const before = memory();
    const t = mapped.tensor("名前");
    expect(memory().bytes).toBe(before.bytes);
    expect(memory().mappedBytes).toBe(before.mappedBytes + 6);
    t.dispose();
    expect(memory()).toEqual({ ...before, peakBytes: memory().peakBytes });
    mapped.close();
  });

  test("F16 is widened; types that cannot be computed with are named", async () => {
    const file = parseSafetensors(OTHER_TYPES, "other.safetensors");
    const half = file.tensor("half");
    expect(half.dtype).toBe("f32");
    expect([...(await half.data())]).toEqual([1, -0.5, 65504, 2 ** -24, Infinity, NaN]);
    half.dispose();
    expect(() => file.tensor("long")).toThrow(DTypeError);
    expect(() => file.tensor("long")).toThrow(
      "[safetensors] other.safetensors: tensor long is I64; only F32, F64, BF16, F16 and I32 can be computed with",
    );
    expect(() => file.tensor("flag")).toThrow(/flag is BOOL/);
    expect(() => file.tensor("nothing")).toThrow(
      new FormatError("safetensors", "other.safetensors: there is no tensor nothing"),
    );
  });

  test("a file that is missing or a folder is named, with the reason", async () => {
    const missing = join(folder, "missing.safetensors");
    await expect(openSafetensors(missing)).rejects.toThrow(
      new TensorError("file", `cannot read ${missing}: there is no such file or folder`),
    );
    await expect(openSafetensors(folder)).rejects.toThrow(/cannot read .*: it is (not a file|a folder)/);
  });

  test("tensors are read behind 4 GiB; one that is longer than that is refused in Bun", async () => {
    // A sparse file: 4 GiB and a bit of nothing, and three numbers.
    const large = 2 ** 32 + 12;
    const header = fileOf(
      {
        large: { dtype: "U8", shape: [large], data_offsets: [0, large] },
        last: { dtype: "F32", shape: [3], data_offsets: [large, large + 12] },
      },
      0,
    );
    const path = join(folder, "large.safetensors");
    writeFileSync(path, header);
    const file = openSync(path, "r+");
    ftruncateSync(file, header.length + large);
    writeSync(file, new Uint8Array(Float32Array.of(1, 2, 3).buffer), 0, 12, header.length + large);
    closeSync(file);
    for (const reader of [await openSafetensors(path), new SafetensorsFile(path, nodeFiles!.open(path))]) {
      const t = reader.tensor("last");
      expect([...(await t.data())]).toEqual([1, 2, 3]);
      t.dispose();
      reader.close();
    }
    const mapped = await openSafetensors(path);
    expect(() => mapped.bytes("large")).toThrow(
      /large\.safetensors: 4294967308 bytes cannot be mapped at once, 4 GiB can/,
    );
    writeFileSync(path, header);
    expect(() => mapped.bytes("last")).toThrow(/large\.safetensors was replaced while it was open; open it again/);
    mapped.close();
  });

  test("a file cut off between opening and reading is noticed (Node)", () => {
    const path = join(folder, "shrinking.safetensors");
    writeFileSync(path, WRITTEN_BY_LIBRARY);
    const file = new SafetensorsFile(path, nodeFiles!.open(path));
    writeFileSync(path, WRITTEN_BY_LIBRARY.subarray(0, 500));
    expect(() => file.tensor("名前")).toThrow(/became shorter while it was read/);
    file.close();
  });
});

describe("writing", () => {
  test("gives the bytes that the library writes", async () => {
    const tensors = parseSafetensors(WRITTEN_BY_LIBRARY).tensors();
    const shuffled = new Map([...tensors].reverse());
    expect(await serializeSafetensors(shuffled, { format: "pt" })).toEqual(WRITTEN_BY_LIBRARY);
    const path = join(folder, "same.safetensors");
    await writeSafetensors(path, shuffled, { format: "pt" });
    expect(new Uint8Array(readFileSync(path))).toEqual(WRITTEN_BY_LIBRARY);
    for (const t of tensors.values()) t.dispose();
  });

  test("adapters written by PEFT come out the same, byte for byte", async () => {
    const golden = join(import.meta.dir, "../../../../../shared/golden");
    const paths = existsSync(golden) ? [...new Bun.Glob("*/adapter_model.safetensors").scanSync(golden)] : [];
    if (paths.length === 0) console.log("no golden adapters beside the checkout: only the library's own bytes checked");
    for (const path of paths) {
      const file = await openSafetensors(join(golden, path));
      const tensors = file.tensors();
      const bytes = await serializeSafetensors(tensors, file.metadata);
      expect(Buffer.compare(bytes, readFileSync(join(golden, path)))).toBe(0);
      for (const t of tensors.values()) t.dispose();
      file.close();
    }
  });

  test("tells how far it is", async () => {
    const told: string[] = [];
    const both = new Map([
      ["a", Tensor.from([1], [1])],
      ["b", Tensor.from([2], [1])],
    ]);
    await serializeSafetensors(both, undefined, { progress: (done, total) => told.push(`${done}/${total}`) });
    expect(told).toEqual(["0/2", "1/2", "2/2"]);
  });

  test("views are written as their values", async () => {
    const t = tensor([
      [1, 2, 3],
      [4, 5, 6],
    ]);
    const file = parseSafetensors(await serializeSafetensors(new Map([["t", t.T]])));
    expect(file.info("t").shape).toEqual([3, 2]);
    expect([...(await file.tensor("t").data())]).toEqual([1, 4, 2, 5, 3, 6]);
  });

  test("what cannot name a tensor is refused", async () => {
    const t = tensor([1]);
    await expect(serializeSafetensors(new Map([["__metadata__", t]]))).rejects.toThrow(
      /"__metadata__" cannot name a tensor/,
    );
    await expect(serializeSafetensors(new Map([["\ud800", t]]))).rejects.toThrow(/cannot name a tensor/);
  });

  test("a failed write leaves the earlier file and nothing beside it", async () => {
    const own = mkdtempSync(join(folder, "failed-"));
    const path = join(own, "model.safetensors");
    await writeSafetensors(path, new Map([["a", tensor([1])]]));
    const before = readFileSync(path);
    const freed = tensor([1, 2, 3]);
    freed.dispose();
    await expect(writeSafetensors(path, new Map([["a", freed]]))).rejects.toThrow(/was freed/);

    expect(readdirSync(own)).toEqual(["model.safetensors"]);
    expect(readFileSync(path)).toEqual(before);
    const nowhere = join(own, "no-such-folder", "model.safetensors");
    await expect(writeSafetensors(nowhere, new Map([["a", tensor([1])]]))).rejects.toThrow(/no such file or folder/);
  });

  test("through a symbolic link the file that it points to is written", async () => {
    const own = mkdtempSync(join(folder, "link-"));
    const [file, link] = [join(own, "file.safetensors"), join(own, "link.safetensors")];
    writeFileSync(file, "before");
    symlinkSync(file, link);
    await writeSafetensors(link, new Map([["a", tensor([1])]]));
    expect(lstatSync(link).isSymbolicLink()).toBe(true);
    expect(parseSafetensors(readFileSync(file)).names()).toEqual(["a"]);
  });

  test("a full disk is named, and nothing is left", async () => {
    // A file system of 64 KiB, in a mount namespace of its own.
    const small = mkdtempSync(join(folder, "small-"));
    const script = join(folder, "full.ts");
    writeFileSync(
      script,
      `import { readdirSync } from "node:fs";
       import { writeSafetensors, zeros } from ${JSON.stringify(join(import.meta.dir, "../index.ts"))};
       const folder = ${JSON.stringify(small)};
       await writeSafetensors(folder + "/fits.safetensors", new Map([["a", zeros([10])]]));
       await writeSafetensors(folder + "/model.safetensors", new Map([["a", zeros([100_000])]])).catch((e) => console.log(e.message));
       console.log(readdirSync(folder).join());`,
    );
    const command = `mount -t tmpfs -o size=64k none '${small}' && '${process.execPath}' '${script}'`;
    const child = Bun.which("unshare") && Bun.spawnSync(["unshare", "-rm", "sh", "-c", command]);
    const output = child ? child.stdout.toString() : "";
    if (!child || (child.exitCode !== 0 && output === "")) {
      console.log("no small file system can be mounted here: a full disk was not tried");
      return;
    }
    expect(output).toBe(
      `[file] cannot write ${small}/model.safetensors: the disk is full; free some space or choose another disk\nfits.safetensors\n`,
    );
  });
});

describe("broken and hostile files", () => {
  const f32 = (begin: number, end: number, shape: unknown = [(end - begin) / 4]) => ({
    dtype: "F32",
    shape,
    data_offsets: [begin, end],
  });
  const cases: [name: string, bytes: Uint8Array, sentence: RegExp][] = [
    ["empty", new Uint8Array(0), /^\[safetensors\] x: 0 bytes are too few/],
    ["shorter than its length field", new Uint8Array(7), /7 bytes are too few/],
    [
      "header beyond the file",
      Uint8Array.of(100, 0, 0, 0, 0, 0, 0, 0, 123),
      /header has 100 bytes but the file only 9/,
    ],
    [
      "header beyond the limit",
      Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 255),
      /not a safetensors file: its header would have/,
    ],
    ["header not JSON", fileOf("{nonsense", 0), /header is not JSON/],
    ["header not UTF-8", fileOf("{}", 0).map((b, i) => (i === 8 ? 0xff : b)), /header is not JSON in UTF-8/],
    ["header nested too deep", fileOf("[".repeat(1_000_000), 0), /header is not JSON/],
    ["header a list", fileOf("[]", 0), /header is not a JSON object/],
    ["header null", fileOf("null", 0), /header is not a JSON object/],
    [
      "name twice",
      fileOf(
        '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}',
        8,
      ),
      /names "a" twice/,
    ],
    [
      "name twice, one escaped",
      fileOf(
        '{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"\\u0061":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}',
        0,
      ),
      /names "a" twice/,
    ],
    [
      "field twice",
      fileOf('{"a":{"dtype":"F32","dtype":"F64","shape":[1],"data_offsets":[0,4]}}', 4),
      /names "dtype" twice/,
    ],
    ["metadata not text", fileOf({ __metadata__: { format: 1 } }, 0), /__metadata__ "format" is not text/],
    ["metadata a list", fileOf({ __metadata__: [] }, 0), /__metadata__ is not an object/],
    ["entry a number", fileOf({ a: 1 }, 0), /tensor a: its entry in the header is not an object/],
    ["unknown type", fileOf({ a: { ...f32(0, 4), dtype: "F31" } }, 4), /tensor a: element type "F31" is unknown/],
    [
      "a type from the prototype",
      fileOf({ a: { ...f32(0, 4), dtype: "constructor" } }, 4),
      /element type "constructor" is unknown/,
    ],
    ["no type", fileOf({ a: { shape: [1], data_offsets: [0, 4] } }, 4), /element type undefined is unknown/],
    ["negative size", fileOf({ a: f32(0, 4, [-1]) }, 4), /tensor a: \[-1\] is not a shape/],
    ["broken size", fileOf({ a: f32(0, 4, [0.5]) }, 4), /\[0.5\] is not a shape/],
    ["shape not a list", fileOf({ a: f32(0, 4, "1") }, 4), /"1" is not a shape/],
    ["size that overflows", fileOf({ a: f32(0, 4, [2 ** 52, 2 ** 52]) }, 4), /4 bytes are not a F32 tensor of shape/],
    [
      "type that lies",
      fileOf({ a: { ...f32(0, 4), dtype: "BF16" } }, 4),
      /4 bytes are not a BF16 tensor of shape \[1\]/,
    ],
    ["half a byte", fileOf({ a: { dtype: "F4", shape: [3], data_offsets: [0, 2] } }, 2), /2 bytes are not a F4 tensor/],
    ["offsets backwards", fileOf({ a: f32(4, 0, [1]) }, 4), /\[4,0\] are not data_offsets/],
    ["three offsets", fileOf({ a: { ...f32(0, 4), data_offsets: [0, 4, 8] } }, 8), /are not data_offsets/],
    [
      "offsets beyond the file",
      fileOf({ a: f32(0, 8) }, 4),
      /tensor a: its bytes end at \d+ but the file at \d+; was it cut off/,
    ],
    ["overlap", fileOf({ a: f32(0, 8), b: f32(4, 12) }, 12), /tensor b overlaps the one before it/],
    ["the same bytes twice", fileOf({ a: f32(0, 8), b: f32(0, 8) }, 8), /overlaps the one before it/],
    ["hole", fileOf({ a: f32(0, 4), b: f32(8, 12) }, 12), /4 bytes before tensor b belong to no tensor/],
    ["rest", fileOf({ a: f32(0, 4) }, 7), /3 bytes at its end belong to no tensor/],
  ];
  for (const [name, bytes, sentence] of cases) {
    test(name, () => {
      expect(() => parseSafetensors(bytes, "x")).toThrow(FormatError);
      expect(() => parseSafetensors(bytes, "x")).toThrow(sentence);
    });
  }

  test("names that objects have by themselves are names like others", () => {
    const file = parseSafetensors(fileOf('{"__proto__":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', 4));
    expect(file.names()).toEqual(["__proto__"]);
  });

  test("any change to a good file is a FormatError or a file that can be read", () => {
    const changes = fc.array(fc.tuple(fc.nat(WRITTEN_BY_LIBRARY.length - 1), fc.nat(255)), {
      minLength: 1,
      maxLength: 4,
    });
    fc.assert(
      fc.property(changes, fc.nat(WRITTEN_BY_LIBRARY.length), fc.boolean(), (edits, length, cut) => {
        const bytes = WRITTEN_BY_LIBRARY.slice(0, cut ? length : undefined);
        for (const [at, value] of edits) if (at < bytes.length) bytes[at] = value;
        readAll(bytes);
      }),
      { numRuns: 2000, seed: 1 },
    );
  });

  test("any header is a FormatError or a file that can be read", () => {
    const size = fc.oneof(fc.nat(4), fc.constantFrom(-1, 0.5, 2 ** 53, 1e300, null, "1"));
    const entry = fc.oneof(
      fc.record(
        {
          dtype: fc.constantFrom("F32", "BF16", "I64", "F4", "X", 1, null),
          shape: fc.oneof(fc.array(size, { maxLength: 3 }), size),
          data_offsets: fc.oneof(fc.array(size, { maxLength: 3 }), size),
        },
        { requiredKeys: [] },
      ),
      fc.jsonValue(),
    );
    fc.assert(
      fc.property(fc.dictionary(fc.string(), entry, { maxKeys: 3 }), fc.nat(64), (header, dataBytes) =>
        readAll(fileOf(header, dataBytes)),
      ),
      { numRuns: 2000, seed: 2 },
    );
  });

  /** Opens and reads everything; errors other than ours fail the test. */
  function readAll(bytes: Uint8Array): void {
    try {
      const file = parseSafetensors(bytes, "x");
      for (const name of file.names()) {
        const { byteLength } = file.info(name);
        expect(file.bytes(name).byteLength).toBe(byteLength);
        try {
          file.tensor(name).dispose();
        } catch (error) {
          if (!(error instanceof DTypeError)) throw error;
        }
      }
    } catch (error) {
      if (!(error instanceof FormatError)) throw error;
      expect(error.message).toStartWith("[safetensors] x: ");
    }
  }
});

test("no metadata may be written as null, as mlx does", () => {
  const file = parseSafetensors(
    fileOf({ __metadata__: null, a: { dtype: "F32", shape: [1], data_offsets: [0, 4] } }, 4),
  );
  expect(file.names()).toEqual(["a"]);
  expect(Object.keys(file.metadata)).toEqual([]);
});

test("what is written is read back, for any names, types and shapes", async () => {
  const one = fc.record({
    name: fc.string({ unit: "grapheme" }).filter((name) => name !== "__metadata__"),
    dtype: fc.constantFrom("f32" as const, "f64" as const, "bf16" as const, "i32" as const),
    shape: fc.array(fc.nat(4), { maxLength: 3 }),
  });
  const some = fc.uniqueArray(one, { maxLength: 5, selector: (t) => t.name });
  await fc.assert(
    fc.asyncProperty(some, fc.dictionary(fc.string(), fc.string()), async (list, metadata) => {
      const tensors = new Map(
        list.map(({ name, dtype, shape }) => {
          const n = shape.reduce((a, b) => a * b, 1);
          return [
            name,
            Tensor.from(
              Int8Array.from({ length: n }, (_, i) => i * 7),
              shape,
              { dtype },
            ),
          ];
        }),
      );
      const file = parseSafetensors(await serializeSafetensors(tensors, metadata));
      expect({ ...file.metadata }).toEqual({ ...metadata });
      expect(new Set(file.names())).toEqual(new Set(tensors.keys()));
      for (const [name, t] of tensors) {
        const back = file.tensor(name);
        expect([back.dtype, back.shape, await back.data()]).toEqual([t.dtype, t.shape, await t.data()]);
        t.dispose();
        back.dispose();
      }
    }),
    { numRuns: 100, seed: 3 },
  );
});
