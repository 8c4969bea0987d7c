"""Writes blocks.json: random blocks of every type and what the `gguf` package decodes them to.

    pip install gguf==0.19.0 numpy && python make_blocks.py > blocks.json
"""
import base64
import json

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as T
from gguf.quants import dequantize

BLOCKS = 3
# Byte offsets of the half-precision numbers in a block, which random bytes would make infinite or NaN.
HALVES = {T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0], T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208]}

rng = np.random.default_rng(5)
out = {}
for kind, offsets in HALVES.items():
    _, size = GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (BLOCKS, size), dtype=np.uint8)
    for at in offsets:
        halves = (rng.standard_normal(BLOCKS) * 0.05).astype(np.float16)
        blocks[:, at : at + 2] = halves.view(np.uint8).reshape(BLOCKS, 2)
    values = dequantize(blocks, kind).astype(np.float32)
    b64 = lambda a: base64.b64encode(np.ascontiguousarray(a).tobytes()).decode()
    out[kind.name.lower()] = {"blocks": b64(blocks), "values": b64(values)}
print(json.dumps(out, indent=1))
