"""Writes npy.json: files that NumPy writes, and the numbers in them.

    pip install numpy && python make_npy.py > npy.json      (numpy 2.4)
"""
import base64
import io
import json

import numpy as np

b64 = lambda data: base64.b64encode(data).decode()


def saved(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def archived(save, **arrays):
    file = io.BytesIO()
    save(file, **arrays)
    return b64(file.getvalue())


grid = np.arange(6).reshape(2, 3)
arrays = {
    **{kind: (grid - 2 * (kind[1] in "fi")).astype(kind) for kind in "<f2 <f4 <f8 |b1 |i1 |u1 <i2 <u2 <i4 <u4 <i8 <u8".split()},
    **{f"big {kind}": (grid - 2 * (kind[1] in "fi")).astype(kind) for kind in ">f2 >f4 >f8 >i2 >u2 >i4 >u4 >i8 >u8".split()},
    "columns first": np.asfortranarray(grid.astype("<f4")),
    "three dimensions, columns first": np.asfortranarray(np.arange(24, dtype="<i4").reshape(2, 3, 4)),
    "a number": np.array(2.5, dtype="<f4"),
    "a row": np.array([1.5, -2.5], dtype="<f4"),
    "a long row": np.zeros(12345, dtype="|i1")[:0],
    "many dimensions": np.full((1,) * 17, 3.5, dtype="<f4"),
    "nothing": np.zeros((2, 0, 3), dtype="<f4"),
    "special": np.array([np.nan, np.inf, -np.inf, -0.0], dtype="<f4"),
}
a, b = np.array([[1.5, 2], [3, -4]], dtype="<f4"), np.arange(3, dtype="<i4")
version2 = io.BytesIO()
np.lib.format.write_array(version2, a, version=(2, 0))
out = {
    "numpy": np.__version__,
    "files": {n: {"file": b64(saved(x)), "shape": list(x.shape), "values": [str(v) for v in x.astype(float).ravel().tolist()]} for n, x in arrays.items()},
    "version2": b64(version2.getvalue()),
    "npz": archived(np.savez, a=a, b=b),
    "compressed": archived(np.savez_compressed, a=a, b=b),
    "complex": b64(saved(np.array([1j]))),
    "structured": b64(saved(np.zeros(2, dtype=[("x", "<f4"), ("y", "<i4")]))),
}
print(json.dumps(out, indent=1))
