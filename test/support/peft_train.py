"""Trains adapters of several kinds with PEFT on one model (f32) and prints, as JSON, what each run did.

usage: peft_train.py MODEL_DIR < runs.json      runs: [{"config": LoraConfig's fields, "adapter": a folder to start from or
null, "sequences": lists of token ids, "lr", "steps"}]; a run that changes the base weights must be the last
"""

import json
import sys

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch.nn import functional as F
from transformers import AutoModelForCausalLM


def train(model, sequences, lr, steps):
    names = {
        name.replace(".default", "").replace("magnitude_vector.weight", "magnitude_vector"): parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    optimizer = torch.optim.AdamW(names.values(), lr=lr, weight_decay=0)
    with torch.no_grad():
        result = {"logits": model(torch.tensor([sequences[0]])).logits[0, -1].tolist(), "losses": [], "norms": []}
    for step in range(steps):
        losses = [
            F.cross_entropy(model(torch.tensor([ids])).logits[0, :-1], torch.tensor(ids[1:]), reduction="sum")
            for ids in sequences
        ]
        loss = sum(losses) / sum(len(ids) - 1 for ids in sequences)
        loss.backward()
        if step == 0:
            result["gradients"] = {name: parameter.grad.norm().item() for name, parameter in names.items()}
        result["losses"].append(loss.item())
        result["norms"].append(torch.nn.utils.clip_grad_norm_(names.values(), 1.0).item())
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 - step / steps)
        optimizer.step()
        optimizer.zero_grad()
    return result


model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
results = []
for run in json.load(sys.stdin):
    if run["adapter"]:
        adapted = PeftModel.from_pretrained(model, run["adapter"], is_trainable=True)
    else:
        adapted = get_peft_model(model, LoraConfig(**run["config"]))
    results.append(train(adapted, run["sequences"], run["lr"], run["steps"]))
    model = adapted.unload()
print(json.dumps(results))
