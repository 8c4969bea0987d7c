"""Makes an adapter with PEFT, for adapter.test.ts: a real one per release that we claim to read. Its two files, and what
PEFT computes of them, are kept in one JSON file beside this script, named by PEFT's version.

usage: python make_peft_adapter.py && bunx biome format --write .        (with torch, peft and safetensors installed)
"""

import base64
import json
import tempfile
from pathlib import Path

import peft
import torch
from torch import nn


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q_proj = nn.Linear(8, 8)
        self.k_proj = nn.Linear(8, 4)
        self.v_proj = nn.Linear(8, 4)
        self.o_proj = nn.Linear(8, 8, bias=False)


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.self_attn = Attention()


class Body(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([Layer(), Layer()])


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = Body()
        self.lm_head = nn.Linear(8, 11, bias=False)


torch.manual_seed(0)
config = peft.LoraConfig(
    r=2,
    lora_alpha=4,
    lora_dropout=0.1,
    target_modules=["q_proj", "k_proj", "o_proj", "lm_head"],
    exclude_modules=["1.self_attn.k_proj"],
    rank_pattern={"layers.0.self_attn.q_proj": 3},
    alpha_pattern={"o_proj": 16},
    use_rslora=True,
    init_lora_weights=False,
)
model = peft.get_peft_model(Model(), config)
with tempfile.TemporaryDirectory() as folder:
    model.save_pretrained(folder)
    config_text = (Path(folder) / "adapter_config.json").read_text()
    weights = (Path(folder) / "adapter_model.safetensors").read_bytes()
layers = {
    name.removeprefix("base_model.model."): {
        "scaling": module.scaling["default"],
        "delta": module.get_delta_weight("default").flatten().tolist(),
    }
    for name, module in model.named_modules()
    if isinstance(module, peft.tuners.lora.LoraLayer)
}
fixture = {"config": config_text, "weights": base64.b64encode(weights).decode(), "layers": layers}
(Path(__file__).parent / f"peft-{peft.__version__}.json").write_text(json.dumps(fixture))
