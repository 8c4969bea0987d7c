"""Loads a model folder (f32) with transformers, then PEFT adapters on their base one after another, and prints as JSON what
they make of each prompt: the last position's logits and, of the folder, a greedy continuation and a rendered conversation.

usage: transformers_logits.py < job.json
job: {"model": folder, "base": folder, "adapters": [folder, ...], "prompts": [[ids], ...], "generate": number, "chat": [messages] or null}
"""

import gc
import json
import sys
import warnings

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

# Of keys that are missing or unexpected the libraries only warn: here that is a failure.
warnings.simplefilter("error")
warnings.filterwarnings("default", category=DeprecationWarning)
warnings.filterwarnings("default", category=FutureWarning)

job = json.load(sys.stdin)
tokenizer = AutoTokenizer.from_pretrained(job["model"])


def load(folder):
    loaded, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
    return loaded.eval()


model = load(job["model"])


def logits(module):
    return [module(torch.tensor([ids])).logits[0, -1].tolist() for ids in job["prompts"]]


with torch.no_grad():
    out = {"logits": logits(model), "adapters": {}}
    out["texts"] = []
    if job.get("generate"):
        for ids in job["prompts"]:
            # Nothing is said of sampling or of the end: generation_config.json must.
            made = model.generate(torch.tensor([ids]), max_new_tokens=job["generate"])
            out["texts"].append(tokenizer.decode(made[0, len(ids) :], skip_special_tokens=True))
    if job.get("chat"):
        out["chat"] = tokenizer.apply_chat_template(job["chat"], tokenize=False, add_generation_prompt=True)
    del model
    gc.collect()
    model = load(job["base"])
    for folder in job["adapters"]:
        adapted = PeftModel.from_pretrained(model, folder).eval()
        out["adapters"][folder] = logits(adapted)
        model = adapted.unload()
print(json.dumps(out))
