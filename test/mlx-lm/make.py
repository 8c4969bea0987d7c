"""Makes the adapters beside it with mlx-lm itself, on the demo model, and what mlx-lm computes with them (golden.json).

    pip install "mlx[cpu]" mlx-lm && python make.py        (versions: golden.json)
"""

import json
from importlib.metadata import version
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.tuner.utils import linear_to_lora_layers
from mlx_lm.utils import load_model

mx.set_default_device(mx.cpu)
HERE = Path(__file__).parent
DEMO = HERE.parent.parent / "models" / "demo"
IDS = [5, 77, 300, 12, 900, 44]
PARAMETERS = {"rank": 2, "dropout": 0.0, "scale": 3.0, "keys": ["self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj"]}

golden = {"mlx": version("mlx"), "mlx-lm": version("mlx-lm"), "ids": IDS, "logits": {}}
for kind in ("lora", "dora"):
    model, _ = load_model(DEMO)
    model.set_dtype(mx.float32)
    model.freeze()
    linear_to_lora_layers(model, 2, PARAMETERS, use_dora=kind == "dora")
    mx.random.seed(3)
    changed = lambda name, v: mx.random.normal(v.shape) * 0.05 if name.endswith("lora_b") else v * mx.random.uniform(0.9, 1.1, v.shape)
    weights = {name: changed(name, v) for name, v in tree_flatten(model.trainable_parameters())}
    folder = HERE / kind
    folder.mkdir(exist_ok=True)
    mx.save_safetensors(str(folder / "adapters.safetensors"), weights)
    config = {"fine_tune_type": kind, "lora_parameters": PARAMETERS, "model": "tslm/demo", "num_layers": 2, "train": True}
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=4) + "\n")
    model.load_weights(list(weights.items()), strict=False)
    model.eval()
    logits = model(mx.array([IDS]))[0, -1].astype(mx.float32)
    # The largest are enough to tell a model by, and the sum of all.
    top = sorted(range(logits.size), key=lambda i: -logits[i].item())[:20]
    golden["logits"][kind] = {"sum": logits.sum().item(), "top": [[i, logits[i].item()] for i in top]}
(HERE / "golden.json").write_text(json.dumps(golden) + "\n")
