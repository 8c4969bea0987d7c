"""Trains small adapters of every kind with PEFT, for test/variants.test.ts: a random Qwen2 model of two layers, and for
each kind the adapter as it begins, its logits, the first step's gradients, the losses of some steps and the adapter and
logits they end with. All of it is kept in one JSON file beside this script, named by PEFT's version.

usage: python make_peft_variants.py && bunx biome format --write .        (with torch, transformers and peft installed)
"""

import base64
import json
import tempfile
from pathlib import Path

import peft
import torch
from peft.optimizers import create_loraplus_optimizer
from safetensors.torch import save
from torch.nn import functional as F
from transformers import Qwen2Config, Qwen2ForCausalLM

STEPS, LR, CLIP = 5, 0.02, 1.0
SEQUENCES = [[3, 41, 7, 19, 28, 11, 2], [40, 9, 33, 5, 17], [1, 22, 22, 36, 8, 45, 30, 14, 6]]
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CASES = {
    "plain": {"target_modules": ["q_proj", "v_proj"], "init_lora_weights": False},
    "rsLoRA": {"target_modules": ["q_proj", "down_proj"], "init_lora_weights": False, "use_rslora": True},
    "DoRA": {"target_modules": ALL, "init_lora_weights": False, "use_dora": True},
    "DoRA as it starts": {"target_modules": ["q_proj", "up_proj"], "use_dora": True, "use_rslora": True},
    "PiSSA": {"target_modules": ALL, "init_lora_weights": "pissa"},
    "PiSSA with rsLoRA": {
        "target_modules": ["q_proj", "v_proj"],
        "init_lora_weights": "pissa",
        "use_rslora": True,
    },
    "OLoRA": {"target_modules": ALL, "init_lora_weights": "olora"},
    "LoRA+": {"target_modules": ["q_proj", "v_proj"], "init_lora_weights": False, "loraplus_lr_ratio": 4},
    "label smoothing": {"target_modules": ["q_proj", "v_proj"], "init_lora_weights": False, "label_smoothing": 0.2},
}


def text(tensors):
    return base64.b64encode(save({name: t.detach().contiguous() for name, t in tensors.items()})).decode()


def files(model, **options):
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, **options)
        config = (Path(folder) / "adapter_config.json").read_text()
        weights = (Path(folder) / "adapter_model.safetensors").read_bytes()
    return {"config": config, "weights": base64.b64encode(weights).decode()}


def logits(model):
    model.eval()
    with torch.no_grad():
        return model(torch.tensor([SEQUENCES[0]])).logits[0, -1].tolist()


def loss_of(model, label_smoothing):
    parts = [
        F.cross_entropy(
            model(torch.tensor([ids])).logits[0, :-1],
            torch.tensor(ids[1:]),
            reduction="sum",
            label_smoothing=label_smoothing,
        )
        for ids in SEQUENCES
    ]
    return sum(parts) / sum(len(ids) - 1 for ids in SEQUENCES)


def run(base, name, settings):
    settings = dict(settings)
    ratio = settings.pop("loraplus_lr_ratio", None)
    smoothing = settings.pop("label_smoothing", 0.0)
    torch.manual_seed(sum(name.encode()))
    model = Qwen2ForCausalLM(base.config)
    model.load_state_dict(base.state_dict())
    converts = settings.get("init_lora_weights") in ("pissa", "olora")
    model = peft.get_peft_model(model, peft.LoraConfig(r=2, lora_alpha=4, task_type="CAUSAL_LM", **settings))
    for key, parameter in model.named_parameters():
        if "magnitude" in key and settings.get("init_lora_weights") is False:
            parameter.data *= 1 + 0.3 * torch.rand_like(parameter)
    out = {"start": files(model), "start_logits": logits(model)}
    with tempfile.TemporaryDirectory() as initial:
        if converts:
            # As PEFT's guide says: the initial adapter is saved as one that changes no base weight.
            model.peft_config["default"].init_lora_weights = True
            model.save_pretrained(initial)
            model.peft_config["default"].init_lora_weights = settings["init_lora_weights"]
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if ratio:
            optimizer = create_loraplus_optimizer(model, torch.optim.AdamW, lr=LR, loraplus_lr_ratio=ratio)
            out["loraplus_lr_ratio"] = ratio
        else:
            optimizer = torch.optim.AdamW(trained, lr=LR, weight_decay=0)
        for group in optimizer.param_groups:
            group["peak"], group["weight_decay"] = group["lr"], 0
        out["label_smoothing"], out["losses"], out["norms"] = smoothing, [], []
        model.train()
        for step in range(STEPS):
            loss = loss_of(model, smoothing)
            loss.backward()
            if step == 0:
                out["gradients"] = text(
                    {
                        key.replace(".default", "").removesuffix("magnitude_vector.weight") + "magnitude_vector"
                        if "magnitude" in key
                        else key.replace(".default", ""): parameter.grad
                        for key, parameter in model.named_parameters()
                        if parameter.requires_grad
                    }
                )
            out["losses"].append(loss.item())
            out["norms"].append(torch.nn.utils.clip_grad_norm_(trained, CLIP).item())
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * (1 - step / STEPS)
            optimizer.step()
            optimizer.zero_grad()
        out["end_logits"] = logits(model)
        # Each of the two, as PEFT saves it: as it is, and for an unchanged base model.
        out["end"] = files(model)
        if converts:
            out["converted"] = files(model, path_initial_model_for_weight_conversion=initial)
    return out


torch.manual_seed(0)
config = Qwen2Config(
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=48,
    max_position_embeddings=64,
    rope_theta=10000.0,
    tie_word_embeddings=True,
    initializer_range=0.2,
)
base = Qwen2ForCausalLM(config).float()
tensors = {name: t for name, t in base.state_dict().items() if name != "lm_head.weight"}
fixture = {
    "config": config.to_json_string(),
    "weights": text(tensors),
    "sequences": SEQUENCES,
    "lr": LR,
    "cases": {name: run(base, name, settings) for name, settings in CASES.items()},
}
(Path(__file__).parent / f"variants-peft-{peft.__version__}.json").write_text(json.dumps(fixture, indent=2))
